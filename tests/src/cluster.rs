//! One cluster: up, down, status, and ways in.

use crate::binaries::Binaries;
use crate::cgroup::ControlGroup;
use crate::command::Tool;
use crate::network::AddressRange;
use crate::pki::Pki;
use crate::process::{self, PARTS, Starter};
use crate::progress::say;
use crate::registry::Registry;
use crate::state::{ClusterName, State};
use crate::{control_plane, machine, mounts, network, node, registry};
use anyhow::{Context, Result, bail};
use rustix::process::Pid;
use std::fmt::Write;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a part may take to answer on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// A cluster that came up.
#[derive(Debug, Clone)]
pub struct Cluster {
    state: State,
    range: AddressRange,
    binaries: Binaries,
}

/// What there is of a cluster.
#[derive(Debug)]
pub enum Status {
    /// Nothing.
    Down,
    /// It came up, and all its parts run.
    Up(Cluster),
    /// It did not come up wholly, or parts have ended since; the text says which.
    Broken(String),
}

impl Cluster {
    /// What there is of the cluster of this name. Changes nothing and does not ask the API server.
    pub fn status(name: &ClusterName) -> Status {
        let state = State::of(name);
        if !state.exists() {
            return Status::Down;
        }
        if !rustix::process::geteuid().is_root() {
            return Status::Broken("only root can see whether its processes run".to_owned());
        }
        if !state.is_marked_ready() {
            return Status::Broken("it did not come up wholly, or is coming up just now".to_owned());
        }
        let dead: Vec<_> = PARTS.into_iter().filter(|part| process::find(&state, part).is_none()).collect();
        if dead.len() == PARTS.len() {
            return Status::Broken("none of its processes runs".to_owned());
        }
        if !dead.is_empty() {
            let logs: Vec<_> = dead.iter().map(|part| state.log(part).display().to_string()).collect();
            return Status::Broken(format!("not running: {}; see {}", dead.join(", "), logs.join(", ")));
        }
        match state.describe() {
            Ok((range, folder)) => Status::Up(Self { state, range, binaries: Binaries::in_folder(folder) }),
            Err(error) => Status::Broken(format!("{error:#}")),
        }
    }

    /// The running cluster of this name.
    ///
    /// # Errors
    /// When it is not up; the message says what to do.
    pub fn find(name: &ClusterName) -> Result<Self> {
        let command = format!("cargo xtask cluster up --name {}", name.as_str());
        match Self::status(name) {
            Status::Up(cluster) => Ok(cluster),
            Status::Down => bail!("there is no cluster `{}`; bring it up with `{command}`", name.as_str()),
            Status::Broken(why) => {
                bail!("cluster `{}` is broken: {why}; bring it up anew with `{command}`", name.as_str())
            }
        }
    }

    /// Brings the cluster up: installs and builds what is missing, removes the remains of an earlier run. A cluster
    /// that is up stays as it is.
    ///
    /// # Errors
    /// When rights or tools are missing (before anything is installed or built), or when a step fails; the message names
    /// the log. What came up until then stays, to be looked at; the next `up` or `down` removes it.
    pub fn up(name: &ClusterName) -> Result<Self> {
        machine::check()?;
        let state = State::of(name);
        let lock = state.lock()?;
        match Self::status(name) {
            Status::Up(cluster) => {
                say(format!("cluster `{}` is up already", name.as_str()));
                return Ok(cluster);
            }
            Status::Broken(why) => {
                say(format!("removing what is left of cluster `{}`: {why}", name.as_str()));
                remove(&state)?;
            }
            Status::Down => {}
        }
        machine::install_packages()?;
        let binaries = Binaries::find_or_build()?;
        let cluster = Self::bring_up(state, binaries).with_context(|| {
            format!(
                "cluster `{0}` did not come up; `cargo xtask cluster down --name {0}` removes what is left",
                name.as_str()
            )
        })?;
        drop(lock);
        Ok(cluster)
    }

    fn bring_up(state: State, binaries: Binaries) -> Result<Self> {
        let started = Instant::now();
        let name = state.name().as_str().to_owned();
        let range = state.create(binaries.folder())?;
        say(format!("bringing up cluster `{name}`; logs in {}", state.path("log").display()));
        network::create(&name, range)?;
        Pki::of(&state).create(range)?;
        let cluster = Self { state, range, binaries };
        let state = &cluster.state;
        let mut parts = Starter::new(state, &cluster.binaries);

        control_plane::start_api(&mut parts, state, range)?;
        registry::start(&mut parts, state, range)?;
        node::start_containerd(&mut parts, state, range)?;
        parts.wait_for("registry", "the registry", PATIENCE, || registry::probe(&name, range))?;
        cluster.push(&cluster.binaries.pause_image(), node::PAUSE)?;
        say("registry is up, waiting for the API server");
        let admin = |arguments: &[&str]| cluster.kubectl(arguments).run();
        parts.wait_for("apiserver", "the API server", PATIENCE, || admin(&["get", "--raw", "/readyz"]))?;
        // Kubernetes has the role, but binds it to nobody.
        let role = ["--clusterrole=system:node-proxier", "--user=system:kube-proxy"];
        admin(&[&["create", "clusterrolebinding", "kube-proxy"][..], &role].concat())?;
        control_plane::start_controllers(&mut parts, state)?;

        let ctr =
            || Tool::new(cluster.binaries.path("ctr")).arg("-a").arg(state.containerd_socket()).arg("version").run();
        parts.wait_for("containerd", "containerd", PATIENCE, ctr)?;
        node::start_kubelet_and_proxy(&mut parts, state, range)?;
        say("API server is up, waiting for the node");
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        parts.wait_for("kubelet", "the node to be ready", PATIENCE, || {
            let answer = admin(&["get", "node", crate::pki::NODE, "-o", ready])?;
            if answer == "True" { Ok(()) } else { bail!("the node's condition Ready is `{answer}`") }
        })?;
        // Without it no pod is accepted.
        parts.wait_for("manager", "the first service account", PATIENCE, || {
            admin(&["get", "serviceaccount", "default", "--namespace=default"])
        })?;
        state.mark_ready()?;
        say(format!("cluster `{name}` is up after {:.1} s", started.elapsed().as_secs_f32()));
        say(format!("look around with: cargo xtask cluster kubectl --name {name} -- get pods --all-namespaces"));
        Ok(cluster)
    }

    /// Takes down the cluster of this name, whatever there is of it. Returns whether there was anything.
    ///
    /// # Errors
    /// When something cannot be removed; another `down` goes on from there.
    pub fn down(name: &ClusterName) -> Result<bool> {
        let state = State::of(name);
        if !state.exists() {
            return Ok(false);
        }
        let _lock = state.lock()?;
        remove(&state)?;
        Ok(true)
    }

    /// The cluster's name, which is also its network namespace's.
    pub fn name(&self) -> &str {
        self.state.name().as_str()
    }

    /// The cluster's addresses.
    pub fn range(&self) -> AddressRange {
        self.range
    }

    /// The registry as it stands in an image's name, e.g. `10.10.0.1:5000`.
    pub fn registry(&self) -> String {
        self.range.registry()
    }

    /// The registry as a client finds it.
    pub fn image_registry(&self) -> Registry {
        Registry::of_cluster(self.name(), self.range)
    }

    /// The admin's kubeconfig. Its address is reachable only inside the cluster's network.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.kubeconfig()
    }

    /// The cluster's state folder.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The binaries the cluster runs with.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The control group of the cluster's pods.
    pub fn control_group(&self) -> ControlGroup {
        ControlGroup::of(self.state.name())
    }

    /// The log of requests to the API server, see [`control_plane::audit_log`].
    pub fn audit_log(&self) -> PathBuf {
        control_plane::audit_log(&self.state)
    }

    /// The processes of the cluster's parts.
    pub fn processes(&self) -> Vec<(&'static str, Pid)> {
        PARTS.into_iter().filter_map(|part| Some((part, process::find(&self.state, part)?))).collect()
    }

    /// What a shell needs to know: `KUBECONFIG`, `NETNS` and `REGISTRY`.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("KUBECONFIG", self.kubeconfig().display().to_string()),
            ("NETNS", self.name().to_owned()),
            ("REGISTRY", self.registry()),
        ]
    }

    /// Moves the calling thread, and threads that it starts from now on, into the cluster's network.
    ///
    /// # Errors
    /// When the network namespace is gone, or this is not root.
    pub fn enter_network(&self) -> Result<()> {
        let namespace =
            fs::File::open(network::namespace_file(self.name())).context("opening the network namespace")?;
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).context("entering the network namespace")
    }

    /// A program to be run inside the cluster's network, with [`Cluster::environment`] and the cluster's own
    /// `kubectl` first in `PATH`.
    pub fn tool(&self, program: impl AsRef<std::ffi::OsStr>) -> Tool {
        let mut path = self.binaries.folder().as_os_str().to_owned();
        if let Some(rest) = std::env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        let mut tool = Tool::in_network(self.name(), program)
            .env("PATH", path)
            // Another cluster had the same address before, and what kubectl learnt of it would be believed.
            .env("KUBECACHEDIR", self.state.path("kubectl-cache"));
        for (name, value) in self.environment() {
            tool = tool.env(name, value);
        }
        tool
    }

    /// The cluster's own `kubectl`, as its admin.
    pub fn kubectl(&self, arguments: &[&str]) -> Tool {
        self.tool(self.binaries.path("kubectl")).args(arguments)
    }

    /// Puts an image into the cluster's registry: an OCI layout (a folder), an archive of one, or what `docker save`
    /// writes. Returns the image's whole name.
    ///
    /// # Errors
    /// When it is no image, or cannot be pushed.
    pub fn push(&self, image: &Path, name: &str) -> Result<String> {
        self.image_registry().push(&registry::source_of(image)?, name)
    }

    /// What `status` tells a person.
    pub fn describe(&self) -> String {
        let mut text = format!(
            "cluster `{}` is up: Kubernetes {}, node {}, pods {}, registry {}\nstate and logs in {}\nbinaries in {}\n",
            self.name(),
            crate::binaries::kubernetes_version(),
            self.range.node_address(),
            self.range.pod_range(),
            self.registry(),
            self.state.folder().display(),
            self.binaries.folder().display(),
        );
        for (part, pid) in self.processes() {
            // Writing into a string cannot fail.
            let _ = writeln!(text, "  {part:<11} process {pid}");
        }
        text
    }
}

/// Removes all that there is of a cluster. Each step finds its work by name or state folder, so that it can be repeated
/// after a crash at any point; the state folder goes last, because without it there is nothing to find.
fn remove(state: &State) -> Result<()> {
    let group = ControlGroup::of(state.name());
    process::kill_all(state, &group)?;
    mounts::unmount_below(state.folder())?;
    group.remove()?;
    network::remove(state.name().as_str())?;
    remove_log_links(state)?;
    state.remove()
}

/// The kubelet puts a link to each container's log here, whatever folder it was given for the logs themselves.
fn remove_log_links(state: &State) -> Result<()> {
    let Ok(entries) = fs::read_dir("/var/log/containers") else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if fs::read_link(&path).is_ok_and(|target| target.starts_with(state.folder())) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}
