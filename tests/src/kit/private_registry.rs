//! A registry of a test's own: behind TLS of a private authority and basic authentication, to be stopped and started again.

use crate::cluster::Cluster;
use crate::node;
use crate::pki::Pki;
use crate::process::spawn;
use crate::progress::say;
use crate::registry::Registry;
use crate::wait;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

/// Who may pull and push.
pub const USER: &str = "puller";
/// The password of [`USER`].
pub const PASSWORD: &str = "only-for-tests";
/// Both, as `htpasswd -B` writes them; the registry takes no other hash than bcrypt.
const HTPASSWD: &str = "puller:$2b$04$3z3JMkUd3zwCw9uTrir2reqepttuGN868E62ETJPF/afZLbtjn6Fy\n";
/// The first port that is tried; below those that the kernel gives to clients.
const FIRST_PORT: u16 = 5001;
/// How many registries may run in one cluster at once.
const PORTS: u16 = 100;
/// How long it may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A registry that runs, or was stopped; gone with all its images when this is dropped.
#[derive(Debug)]
pub struct PrivateRegistry<'a> {
    cluster: &'a Cluster,
    port: u16,
    /// Its images, its configuration, and the authority's certificate.
    folder: PathBuf,
    process: Option<Child>,
}

impl<'a> PrivateRegistry<'a> {
    /// Starts a registry on the node's address and a free port, and tells containerd of it. Clients must trust
    /// [`Pki::registry_authority`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(cluster: &'a Cluster) -> Result<Self> {
        for port in FIRST_PORT..FIRST_PORT + PORTS {
            let folder = cluster.state().path("registries").join(port.to_string());
            // Whoever makes the folder has the port: several test programs may look for one at once.
            fs::create_dir_all(folder.parent().unwrap_or(&folder))?;
            match fs::create_dir(&folder) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.with_context(|| format!("cannot make {}", folder.display()))?,
            }
            let mut registry = Self { cluster, port, folder, process: None };
            registry.prepare()?;
            registry.start_again()?;
            return Ok(registry);
        }
        bail!("{PORTS} private registries run in cluster `{}`", cluster.name())
    }

    fn prepare(&self) -> Result<()> {
        let pki = Pki::of(self.cluster.state());
        fs::create_dir(self.authority())?;
        fs::copy(pki.registry_authority(), self.authority().join("ca.crt"))?;
        fs::write(self.folder.join("htpasswd"), HTPASSWD)?;
        fs::write(self.folder.join("config.json"), self.configuration(&pki).to_string())?;
        node::introduce_registry(self.cluster.state(), &self.address(), Some(&pki.registry_authority()))
    }

    fn configuration(&self, pki: &Pki) -> Value {
        json!({
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": self.folder.join("images")}, "delete": {"enabled": true}},
            "http": {
                "addr": self.address(),
                "tls": {"certificate": pki.certificate("registry"), "key": pki.key("registry")},
            },
            "auth": {"htpasswd": {"realm": "tests", "path": self.folder.join("htpasswd")}},
        })
    }

    /// Host and port, as they stand in an image's name.
    pub fn address(&self) -> String {
        format!("{}:{}", self.cluster.range().node_address(), self.port)
    }

    /// The registry as a client with the right password finds it.
    pub fn client(&self) -> Registry {
        Registry::private(self.cluster.name(), &self.address(), &self.authority(), USER, PASSWORD)
    }

    /// The content of `.dockerconfigjson` in a Secret of the type `kubernetes.io/dockerconfigjson`.
    pub fn docker_config(&self, password: &str) -> Value {
        json!({"auths": {self.address(): {"username": USER, "password": password}}})
    }

    /// Ends it, as a crash would; its images stay.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            kill_process(Pid::from_child(&process), Signal::KILL).context("cannot end a private registry")?;
            process.wait()?;
        }
        Ok(())
    }

    /// Starts it where it was.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_again(&mut self) -> Result<()> {
        let state = self.cluster.state();
        let log = format!("registry-{}", self.port);
        let arguments = ["serve".into(), self.folder.join("config.json").into_os_string()];
        let mut process = spawn(state, self.cluster.binaries(), &log, "registry", arguments)?;
        let shown = state.log(&log);
        let ready = wait::until("a private registry", PATIENCE, || {
            if let Some(status) = process.try_wait()? {
                return Ok(Err(status));
            }
            let said = fs::read_to_string(&shown)?;
            if said.contains("listening on") { Ok(Ok(())) } else { bail!("it said {said:?}") }
        });
        self.process = Some(process);
        match ready? {
            Ok(()) => Ok(()),
            Err(status) => bail!("a private registry ended ({status}); see {}", shown.display()),
        }
    }

    fn authority(&self) -> PathBuf {
        self.folder.join("authority")
    }
}

impl Drop for PrivateRegistry<'_> {
    fn drop(&mut self) {
        let removed = self.stop().and_then(|()| Ok(fs::remove_dir_all(&self.folder)?));
        if let Err(error) = removed {
            say(format!("cannot remove a private registry: {error:#}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Format, Image, push_index};
    use anyhow::ensure;

    /// What skopeo says of an image, with or without the password.
    fn inspect(registry: &PrivateRegistry<'_>, image: &str, password: &str) -> Result<crate::command::Output> {
        let client =
            Registry::private(registry.cluster.name(), &registry.address(), &registry.authority(), USER, password);
        client.skopeo("inspect", "").args(["--raw", &format!("docker://{image}")]).output()
    }

    #[test]
    fn a_private_registry_wants_its_password_serves_every_media_type_and_comes_back() -> Result<()> {
        let Some(cluster) = Cluster::for_tests() else { return Ok(()) };
        let mut registry = PrivateRegistry::start(cluster)?;
        let other = PrivateRegistry::start(cluster)?;
        ensure!(registry.address() != other.address(), "two have the address {}", other.address());

        let pause = format!("{}/{}", cluster.registry(), node::PAUSE);
        let image = |architecture: &str| -> Result<Image> {
            Ok(Image::from(&cluster.image_registry(), &pause)?
                .architecture(architecture)
                .configured(json!({"Entrypoint": ["/pause", architecture], "StopSignal": "SIGQUIT"})))
        };
        for (format, media_type) in [(Format::Docker, "application/vnd.docker."), (Format::Oci, "application/vnd.oci.")]
        {
            let single = image("amd64")?.push(&registry.client(), "single:1", format)?;
            let images = [image("amd64")?, image("arm64")?];
            let index = push_index(&images, &registry.client(), "index:1", format)?;
            for name in [single, index] {
                let refused = inspect(&registry, &name, "wrong")?;
                ensure!(!refused.success(), "{name} is for everybody: {refused:?}");
                let shown = inspect(&registry, &name, PASSWORD)?;
                ensure!(shown.success(), "{shown:?}");
                let manifest: Value = serde_json::from_str(&shown.stdout)?;
                let is = manifest["mediaType"].as_str().context("no media type")?;
                ensure!(is.starts_with(media_type), "{name} has the media type {is}");
                let platforms = manifest["manifests"].as_array().map_or(0, Vec::len);
                ensure!(platforms == if name.contains("index") { 2 } else { 0 }, "{manifest:#}");
            }
        }

        registry.stop()?;
        let name = format!("{}/single:1", registry.address());
        ensure!(!inspect(&registry, &name, PASSWORD)?.success(), "it answers although it was stopped");
        registry.start_again()?;
        ensure!(inspect(&registry, &name, PASSWORD)?.success(), "its image is gone");
        Ok(())
    }
}
