//! Images of a file's workloads, looked up from where the person is: with the credentials that docker keeps, and for every platform
//! that is not ruled out, because no cluster is asked.

use std::{env, fs, io, path::PathBuf, sync::Arc, thread};

use clap::Args;
use serde_json::Value;
use tokio::runtime;

use super::Error;
use crate::{
    inject::{ImageAnswer, ImageRequest},
    registry::{Answer, Failure, Keyring, Options, Platform, Platforms, Question, Reference, Registries, budget},
};

/// What images are looked up for, and how.
#[derive(Args, Debug)]
pub(super) struct Images {
    /// Ask no registry: containers that set no `command` need leader.io/command then, and stop signals of images are not known.
    #[arg(long, env = "LEADER_OFFLINE")]
    offline: bool,
    /// Platform that the pods run on, e.g. linux/arm64. Repeatable; without it, all that the image has for Linux must agree.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Vec<Platform>,
    #[command(flatten)]
    registries: Options,
}

/// Answers for images.
#[derive(Debug)]
pub(super) struct ImageSource {
    /// `None`: no registry may be asked.
    registries: Option<Arc<Registries>>,
    platforms: Platforms,
}

impl ImageSource {
    pub(super) fn new(images: &Images) -> Result<Self, Error> {
        let registries = if images.offline { None } else { Some(Registries::new(&images.registries)?) };
        let platforms = images.platform.iter().cloned().collect();
        let platforms = if images.platform.is_empty() { Platforms::Linux } else { Platforms::These(platforms) };
        Ok(Self { registries, platforms })
    }

    pub(super) fn ask(&self, request: &ImageRequest) -> ImageAnswer {
        let Some(registries) = &self.registries else { return ImageAnswer::NotAsked };
        let image = match Reference::parse(&request.image) {
            Ok(image) => image,
            Err(failure) => return ImageAnswer::Failed(failure.to_string()),
        };
        let keyring = of_docker(&image);
        let question = Question { credentials: keyring.matching(&image), image, platforms: self.platforms.clone() };
        match in_a_thread(registries, question, request.required) {
            Ok(Answer { facts: Ok(facts), .. }) => ImageAnswer::Found(facts),
            Ok(Answer { facts: Err(failure), .. }) => ImageAnswer::Failed(keyring.explain(&failure)),
            Err(error) => ImageAnswer::Failed(format!("nothing can be looked up: {error}")),
        }
    }
}

/// In a thread, because who calls the command line as a library may be in a runtime already.
fn in_a_thread(registries: &Arc<Registries>, question: Question, required: bool) -> io::Result<Answer> {
    let host = question.image.host().to_owned();
    let look_up = || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(registries.look_up(question, budget(required))))
    };
    let ended = |_| Ok(Answer { facts: Err(Failure::Ended { host }), was_asked: false });
    thread::scope(|scope| scope.spawn(look_up).join()).unwrap_or_else(ended)
}

/// The credentials in docker's configuration, where `docker login` puts them:
/// <https://docs.docker.com/reference/cli/docker/login/#credential-stores>.
fn of_docker(image: &Reference) -> Keyring {
    let mut keyring = Keyring::default();
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let Some(folder) = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker"))) else {
        return keyring;
    };
    let path = folder.join("config.json");
    let source = path.display().to_string();
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return keyring,
        Err(error) => {
            keyring.note(format!("{source} cannot be read: {error}"));
            return keyring;
        }
    };
    let config: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let helper = config["credHelpers"][image.domain()].as_str().or_else(|| config["credsStore"].as_str());
    // Without `auths` there is nothing wrong when all is in a helper.
    if helper.is_none() || config["auths"].is_object() {
        keyring.add_config(&source, &bytes);
    }
    if let Some(helper) = helper.filter(|_| keyring.matching(image).is_empty()) {
        keyring.note(format!(
            "{source} leaves credentials to the helper docker-credential-{helper}, which is not supported here"
        ));
    }
    keyring
}
