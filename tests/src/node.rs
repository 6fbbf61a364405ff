//! The node: containerd, the kubelet, kube-proxy and the pods' network.

use crate::cgroup::ControlGroup;
use crate::network::AddressRange;
use crate::pki::{NODE, Pki};
use crate::process::Starter;
use crate::state::State;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Where Debian puts the CNI plugins.
const CNI_PLUGINS: &str = "/usr/lib/cni";
/// The folder of the state folder in which containerd looks up registries.
const CERTS: &str = "certs.d";
/// The name under which pause is pushed into the cluster's registry.
pub const PAUSE: &str = "pause:1";

/// Writes containerd's configuration and starts it.
///
/// # Errors
/// When it cannot be started.
pub fn start_containerd(starter: &mut Starter<'_>, state: &State, range: AddressRange) -> Result<()> {
    write(&state.path("containerd.toml"), &containerd_config(state, range))?;
    introduce_registry(state, &range.registry(), None)?;
    write(&state.path("cni/10-pods.conflist"), &pod_network(state, range).to_string())?;
    starter.start("containerd", "containerd", ["-c".into(), state.path("containerd.toml").into_os_string()])
}

/// Makes the control group, writes the configurations of kubelet and kube-proxy, and starts both.
///
/// # Errors
/// When one cannot be started.
pub fn start_kubelet_and_proxy(starter: &mut Starter<'_>, state: &State, range: AddressRange) -> Result<()> {
    let pki = Pki::of(state);
    let group = ControlGroup::of(state.name());
    group.create()?;
    write(&state.path("kubelet.json"), &kubelet_config(state, &group).to_string())?;
    write(&state.path("proxy.json"), &proxy_config(state, range).to_string())?;
    starter.start(
        "kubelet",
        "kubelet",
        [
            format!("--config={}", state.path("kubelet.json").display()),
            format!("--kubeconfig={}", pki.kubeconfig("kubelet").display()),
            format!("--hostname-override={NODE}"),
            format!("--node-ip={}", range.node_address()),
            format!("--root-dir={}", state.path("kubelet").display()),
        ],
    )?;
    starter.start("proxy", "kube-proxy", [format!("--config={}", state.path("proxy.json").display())])
}

fn write(path: &Path, content: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

fn containerd_config(state: &State, range: AddressRange) -> String {
    let path = |relative: &str| state.path(relative).display().to_string();
    let socket = state.containerd_socket().display().to_string();
    let shim_sockets = state.shim_sockets().display().to_string();
    let (data, run, plugins) = (path("containerd"), path("run/containerd"), path("opt"));
    let (cni, certs) = (path("cni"), path(CERTS));
    let pause = format!("{}/{PAUSE}", range.registry());
    // netns_mounts_under_state_dir: the pods' network namespaces are then found by the state folder, too.
    // restrict_oom_score_adj: without CAP_SYS_RESOURCE runc could not start a container with a lower score than its own.
    format!(
        r#"version = 3
root = "{data}"
state = "{run}"

[grpc]
address = "{socket}"

[plugins."io.containerd.shim.v1.manager"]
socket_dir = "{shim_sockets}"

[plugins."io.containerd.internal.v1.opt"]
path = "{plugins}"

[plugins."io.containerd.nri.v1.nri"]
disable = true

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{CNI_PLUGINS}"]
conf_dir = "{cni}"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.images".registry]
config_path = "{certs}"
"#
    )
}

/// Tells containerd how a registry is reached: over TLS with this authority's certificate, or without TLS. It looks at every
/// pull anew (containerd's `docs/hosts.md`), so that this may come at any time.
///
/// # Errors
/// When the file cannot be written.
pub fn introduce_registry(state: &State, address: &str, authority: Option<&Path>) -> Result<()> {
    write(&state.path(CERTS).join(address).join("hosts.toml"), &registry_hosts(address, authority))
}

/// Has containerd pull the images of a registry from another one, which is reached without TLS.
///
/// # Errors
/// When the file cannot be written.
pub fn introduce_mirror(state: &State, registry: &str, mirror: &str) -> Result<()> {
    write(&state.path(CERTS).join(registry).join("hosts.toml"), &registry_hosts(mirror, None))
}

fn registry_hosts(address: &str, authority: Option<&Path>) -> String {
    let scheme = if authority.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}");
    let ca = authority.map(|file| format!("ca = \"{}\"\n", file.display())).unwrap_or_default();
    format!("server = \"{url}\"\n\n[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n{ca}")
}

/// Each pod is joined to the node by a veth pair of its own and all its traffic is routed by the node, also that to a
/// Service whose pod is on this node; with a bridge the answers would take a short cut past kube-proxy's rules.
fn pod_network(state: &State, range: AddressRange) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {"type": "ptp", "ipMasq": false, "ipam": {
                "type": "host-local",
                "dataDir": state.path("ipam"),
                "ranges": [[{"subnet": range.pod_range()}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            }},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn kubelet_config(state: &State, group: &ControlGroup) -> Value {
    let pki = Pki::of(state);
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": group.kubelet_root(),
        "enforceNodeAllocatable": [],
        "containerRuntimeEndpoint": format!("unix://{}", state.containerd_socket().display()),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki.authority()},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki.certificate("kubelet-serving"),
        "tlsPrivateKeyFile": pki.key("kubelet-serving"),
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "resolvConf": "/dev/null",
        "serializeImagePulls": false,
        "podLogsDir": state.path("pod-logs"),
        "volumePluginDir": state.path("volume-plugins"),
        // A full disk of the developer's is no reason to evict a test's pods, or to remove images.
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        // Tests restart containers many times in a row; the usual five minutes would only be waited for.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "5s"},
    })
}

fn proxy_config(state: &State, range: AddressRange) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": Pki::of(state).kubeconfig("proxy")},
        "clusterCIDR": range.pod_range(),
        "hostnameOverride": NODE,
        // The connection table is the machine's, and its size is not ours to change.
        "conntrack": {"maxPerCore": 0, "min": 0},
        "oomScoreAdj": 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::ClusterName;

    fn state() -> State {
        State::of(&ClusterName::new("unit").unwrap())
    }

    #[test]
    fn everything_that_containerd_keeps_is_in_the_state_folder() {
        let config = containerd_config(&state(), AddressRange::new(4));
        let folder = state().folder().display().to_string();
        for key in ["root", "state", "address", "socket_dir", "path", "conf_dir", "config_path"] {
            let line = config.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
            assert!(line.contains(&folder), "{line}");
        }
        assert!(config.contains("sandbox = \"10.10.4.1:5000/pause:1\""), "{config}");
    }

    #[test]
    fn clusters_differ_in_control_group_and_addresses() {
        let other = State::of(&ClusterName::new("other").unwrap());
        let root = |state: &State| kubelet_config(state, &ControlGroup::of(state.name()))["cgroupRoot"].clone();
        assert_eq!(root(&state()), "/leader-cluster-unit");
        assert_ne!(root(&state()), root(&other));
        let range = |index| proxy_config(&state(), AddressRange::new(index))["clusterCIDR"].clone();
        assert_ne!(range(0), range(1));
        let pods = pod_network(&state(), AddressRange::new(1));
        assert_eq!(pods["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], range(1));
    }

    #[test]
    fn a_registry_is_asked_without_tls_or_with_the_authority_that_is_named() {
        assert!(registry_hosts("10.10.0.1:5000", None).contains("server = \"http://10.10.0.1:5000\""));
        let private = registry_hosts("10.10.0.1:5001", Some(Path::new("/ca.crt")));
        assert!(private.contains("[host.\"https://10.10.0.1:5001\"]"), "{private}");
        assert!(private.ends_with("ca = \"/ca.crt\"\n"), "{private}");
    }
}
