//! What a follower needs to know: all of it comes from injection.

use std::{ffi::OsString, path::Path, path::PathBuf};

use crate::{
    id::LeaderId,
    injected::Injected,
    names,
    settings::SettingsError,
    stop_signal::StopSignal,
    timing::{Timing, parse_duration},
};

/// What a follower needs to know.
#[derive(Clone, Debug)]
pub struct FollowSettings {
    /// The id.
    pub id: LeaderId,
    /// The identity of the leader that is followed.
    pub identity: String,
    /// This container's name.
    pub container: String,
    /// The folder that it shares with the leader's agent.
    pub shared: PathBuf,
    /// A folder in it for this container alone: of the lock.
    pub own: PathBuf,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// The signal that asks the command to stop.
    pub stop_signal: StopSignal,
    /// The election's durations, with the CPU limit of this container.
    pub timing: Timing,
}

impl FollowSettings {
    /// Of the container `container` of a pod, given by its name and uid; `None` where that one does not follow. `starved` says that this
    /// container's CPU limit is below one core or unreadable.
    ///
    /// # Errors
    /// When the record's id is none, or the durations do not fit with this container's margin.
    pub fn of(
        record: &Injected,
        container: &str,
        (pod, uid): (&str, &str),
        state_dir: Option<&Path>,
        command: &[OsString],
        starved: bool,
    ) -> Result<Option<Self>, SettingsError> {
        if !record.follow.iter().any(|name| name == container) {
            return Ok(None);
        }
        let follower = record.followers.get(container);
        let duration = |text: &Option<String>| text.as_deref().map(parse_duration).transpose();
        let lease = duration(&record.lease_duration)?.unwrap_or(Timing::default().lease());
        let shared = state_dir.unwrap_or(Path::new(names::MOUNT_PATH)).to_owned();
        Ok(Some(Self {
            id: record.id.parse()?,
            identity: format!("{pod}_{uid}_{}", record.container),
            container: container.to_owned(),
            own: shared.join(format!("follow-{container}")),
            shared,
            command: command.to_vec(),
            timing: Timing::new(lease, duration(&record.stop_grace)?, starved)?,
            stop_signal: follower.and_then(|follower| follower.stop_signal).unwrap_or_default(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_follows_is_in_the_record() {
        let record = r#"{"version":1,"id":"billing","container":"app","follow":["side"],
            "followers":{"side":{"stopSignal":"SIGQUIT","command":["x"]}}}"#;
        let record = Injected::parse(record).unwrap();
        let of = |container: &str| FollowSettings::of(&record, container, ("p", "u"), None, &[], true).unwrap();
        let settings = of("side").unwrap();
        assert_eq!((settings.identity.as_str(), settings.stop_signal.number()), ("p_u_app", 3));
        assert_eq!(settings.own, PathBuf::from("/leader/follow-side"));
        assert!(settings.timing.is_starved());
        assert!(of("app").is_none());
    }

    #[test]
    fn a_lease_too_short_for_this_containers_limit_is_refused() {
        let record = r#"{"version":1,"id":"billing","container":"app","follow":["side"],"leaseDuration":"5s"}"#;
        let record = Injected::parse(record).unwrap();
        let of = |starved| FollowSettings::of(&record, "side", ("p", "u"), None, &[], starved);
        assert!(of(false).is_ok());
        let error = of(true).unwrap_err().to_string();
        assert!(error.contains("CPU limit below one core"), "{error}");
    }
}
