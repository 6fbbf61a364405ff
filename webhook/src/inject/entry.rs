//! How the app is started and stopped: what stands behind the wrapper, what the image adds to it, and the stop signal.
//!
//! A container's runtime puts the process together from the container and its image's configuration. Once injection has set
//! `command`, the runtime no longer looks at the image, so that its part must be written down.

use std::borrow::Cow;

use leader_agent::mode::Mode;
use serde_json::Value;

use super::{
    ImageAnswer, ImageFacts, Refusal,
    json::{containers, containers_mut, text, texts},
    options::{Chosen, Options},
    parts,
    record::Record,
    stated,
};

/// How the app is started and stopped.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// What stands behind the wrapper. Empty where `args` alone say what to run.
    pub command: Vec<String>,
    /// The container says so itself.
    pub sets_command: bool,
    /// The image's `CMD`, where `args` must say it now.
    pub args: Option<Vec<String>>,
    /// The stop signal, where it is not TERM.
    pub stop_signal: Option<String>,
    /// What is known about the image, where it was wanted.
    pub image: Option<ImageFacts>,
    /// For the person who wrote the object.
    pub warnings: Vec<String>,
}

impl Entry {
    /// Of an app that is started as without us.
    fn untouched() -> Self {
        Self {
            command: Vec::new(),
            sets_command: false,
            args: None,
            stop_signal: None,
            image: None,
            warnings: Vec::new(),
        }
    }

    /// The entry point came from the image.
    pub(super) fn is_from_image(&self, options: &Options) -> bool {
        !self.sets_command && options.command.is_none()
    }
}

/// What is known after looking at the container.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// Everything.
    Entry(Entry),
    /// The image must be asked; whether nothing can be decided without its answer.
    Ask {
        /// The entry point is wanted; otherwise only the stop signal is.
        required: bool,
    },
}

/// Finds out how the app is started. `records` are those of earlier injections, the nearest first; `live` is the one that is in force.
pub(super) fn find(
    options: &Options,
    chosen: Chosen<'_>,
    live: Option<&Record>,
    records: &[&Record],
    answer: Option<&ImageAnswer>,
) -> Result<Found, Refusal> {
    if options.mode == Mode::Observe {
        return Ok(Found::Entry(Entry::untouched()));
    }
    let container = chosen.container;
    let required = is_required(options, container);
    if !required && stated_stop_signal(container).is_some() {
        return entry(options, chosen, None, Vec::new()).map(Found::Entry);
    }
    let image = text(container, "image");
    let known = image.and_then(|image| records.iter().find_map(|record| record.knows(image)));
    // A registry is not asked at every rollout of everything for what a tag hardly ever changes.
    let settled = image.zip(live).filter(|_| !required && answer.is_none()).and_then(|(image, live)| live.knows(image));
    let mut warnings = Vec::new();
    let facts = match (image, answer) {
        (Some(image), _) if known.is_some() && has_digest(image) => known,
        _ if settled.is_some() => settled,
        (Some(_), None) => return Ok(Found::Ask { required }),
        (_, Some(ImageAnswer::Found(facts))) => Some(facts.clone()),
        (image, answer) => {
            let reason = match answer {
                None => "the container names none",
                Some(ImageAnswer::Failed(reason)) => reason,
                _ => "registries are not asked here",
            };
            // A template without an image gets one later, and is decided about again then.
            let is_silent = !required && (image.is_none() || answer == Some(&ImageAnswer::NotAsked));
            let image = image.unwrap_or("(none)");
            match &known {
                Some(_) if is_silent => {}
                Some(_) => warnings.push(from_record(image, reason, required)),
                None if required => {
                    return Err(Refusal::NoEntryPoint {
                        container: chosen.name.to_owned(),
                        path: chosen.path(),
                        image: image.to_owned(),
                        reason: reason.to_owned(),
                    });
                }
                None if is_silent => {}
                None => warnings.push(format!(
                    "stop signal of image {image} is not known ({reason}): SIGTERM is taken; `lifecycle.stopSignal` can say another"
                )),
            }
            known
        }
    };
    entry(options, chosen, facts, warnings).map(Found::Entry)
}

/// Whether a record that was made elsewhere says of this container what an injection with the same facts would say.
pub(super) fn agrees(record: &Record, options: &Options, chosen: Chosen<'_>) -> bool {
    let facts = text(chosen.container, "image").and_then(|image| record.knows(image));
    if is_required(options, chosen.container) && facts.is_none() {
        return false;
    }
    entry(options, chosen, facts, Vec::new()).is_ok_and(|entry| {
        (&entry.command, entry.sets_command, &entry.args, &entry.stop_signal)
            == (&record.command, record.original.sets_command, &record.args, &record.stop_signal)
    })
}

/// Puts `args` back that ejecting took for the image's CMD, where the user states them beside a new command: those are the same
/// words, but they are the user's.
pub(super) fn keep_stated_args(plain: &mut Value, template: &Value, object: &Value, record: &Record) {
    let Some(args) = &record.args else { return };
    let of_record = |container: &&Value| text(container, "name") == Some(&record.container);
    let Some(arriving) = containers(template).iter().find(of_record) else { return };
    let command = texts(arriving, "command");
    let is_new = !command.is_empty() && parts::unwrap(&command).is_none();
    if is_new && texts(arriving, "args") == *args && stated::states(object, &record.container, "args") {
        for container in containers_mut(plain).iter_mut().filter(|container| of_record(&&**container)) {
            container["args"] = args.clone().into();
        }
    }
}

/// The user's template with `args` that ejecting took for an image's CMD, where the manifest declares the same words: they stay the
/// user's when the image becomes another one.
pub(super) fn with_declared_args<'a>(
    plain: &'a Value,
    template: &Value,
    object: &Value,
    record: Option<&Record>,
) -> Cow<'a, Value> {
    let Some((record, args)) = record.and_then(|record| Some((record, record.args.as_ref()?))) else {
        return Cow::Borrowed(plain);
    };
    let of_record = |container: &&Value| text(container, "name") == Some(&record.container);
    let arrived =
        containers(template).iter().find(of_record).is_some_and(|container| texts(container, "args") == *args);
    let is_missing =
        containers(plain).iter().find(of_record).is_some_and(|container| texts(container, "args").is_empty());
    if !arrived || !is_missing || !stated::declares(object, &record.container, "args") {
        return Cow::Borrowed(plain);
    }
    let mut plain = plain.clone();
    for container in containers_mut(&mut plain).iter_mut().filter(|container| of_record(&&**container)) {
        container["args"] = args.clone().into();
    }
    Cow::Owned(plain)
}

/// Whether the image alone knows what to start.
fn is_required(options: &Options, container: &Value) -> bool {
    options.command.is_none() && texts(container, "command").is_empty()
}

/// As containerd puts a process together (`WithProcessArgs` in `internal/cri/opts/spec_opts.go`, v2.1): `command`, else the image's
/// ENTRYPOINT, where a single empty word is none; then `args`, else, unless `command` is set, the image's CMD.
fn entry(
    options: &Options,
    chosen: Chosen<'_>,
    facts: Option<ImageFacts>,
    warnings: Vec<String>,
) -> Result<Entry, Refusal> {
    let escape = |words: &[String]| words.iter().map(|word| parts::escape(word)).collect::<Vec<_>>();
    let container = chosen.container;
    let own = texts(container, "command");
    let sets_command = !own.is_empty();
    let (command, args) = match (&options.command, &facts) {
        _ if sets_command => (own, None),
        (Some(words), _) => (escape(words), None),
        (None, Some(facts)) => {
            let entrypoint = if facts.entrypoint == [""] { Vec::new() } else { escape(&facts.entrypoint) };
            let sets_args = !texts(container, "args").is_empty();
            let cmd = Some(escape(&facts.cmd)).filter(|cmd| !sets_args && !cmd.is_empty());
            if entrypoint.is_empty() && cmd.is_none() && !sets_args {
                return Err(Refusal::NothingToRun {
                    container: chosen.name.to_owned(),
                    path: chosen.path(),
                    image: text(container, "image").unwrap_or_default().to_owned(),
                });
            }
            (entrypoint, cmd)
        }
        (None, None) => (Vec::new(), None),
    };
    let stop_signal = stated_stop_signal(container).map(str::to_owned);
    let stop_signal = stop_signal.or_else(|| facts.as_ref().and_then(|facts| facts.stop_signal.clone()));
    Ok(Entry { command, sets_command, args, stop_signal, image: facts, warnings })
}

/// `lifecycle.stopSignal`, which goes before the image's.
fn stated_stop_signal(container: &Value) -> Option<&str> {
    container.get("lifecycle").and_then(|lifecycle| text(lifecycle, "stopSignal"))
}

/// Whether a reference names its content, so that what was once read of it stays true.
pub(super) fn has_digest(image: &str) -> bool {
    image.split_once('@').is_some_and(|(_, digest)| digest.contains(':'))
}

fn from_record(image: &str, reason: &str, required: bool) -> String {
    let what = if required { "entry point and stop signal are" } else { "its stop signal is" };
    format!("image {image} could not be looked up ({reason}): {what} what an earlier injection found")
}
