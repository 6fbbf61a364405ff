//! Which API servers are served, and what an older one among them cannot do: by name, before anybody misses it.
//!
//! The question is asked by [`crate::run`] at the start, and by `kubectl leader check`.

use k8s_openapi::apimachinery::pkg::version::Info;

/// The oldest minor version of Kubernetes 1 that is supported: the first with stable `ValidatingAdmissionPolicy` and stable
/// `matchConditions` of webhooks, without which an annotated workload could come through as it was, and plain ones would be asked about.
pub const OLDEST_MINOR: u32 = 30;

/// Something that elected workloads may use, and older API servers take out of what they are sent, before any webhook sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What a person would write.
    pub name: &'static str,
    /// The first minor version of Kubernetes 1 that has it.
    pub since: u32,
    /// What to do without it.
    pub instead: &'static str,
}

/// Sources: <https://kubernetes.io/blog/2025/05/14/kubernetes-v1-33-updates-to-container-lifecycle>,
/// <https://kubernetes.io/docs/tasks/configure-pod-container/assign-pod-level-resources/>.
const FEATURES: [Feature; 3] = [
    Feature {
        name: "lifecycle.stopSignal of a container",
        since: 33,
        instead: "the agent stops the app with the STOPSIGNAL of its image",
    },
    Feature {
        name: "a lifecycle hook that sleeps 0 seconds",
        since: 33,
        instead: "leave the hook out: it does nothing",
    },
    Feature {
        name: "resources of a whole pod (spec.resources)",
        since: 34,
        instead: "set resources on the containers: the agent takes those of the container that it starts",
    },
];

/// Why an API server is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Its version is no two numbers.
    #[error("the API server's version {0}.{1} cannot be read")]
    Unreadable(String, String),
    /// It is too old.
    #[error(
        "the API server is Kubernetes {0}.{1}: 1.{OLDEST_MINOR} or later is needed, because only that has stable \
         ValidatingAdmissionPolicies, which keep annotated workloads from running without election"
    )]
    TooOld(u32, u32),
}

/// The minor version of an API server that is served. Later major versions count as later than every minor one.
pub fn check(version: &Info) -> Result<u32, VersionError> {
    // Some providers write "30+".
    let number = |text: &str| text.trim_end_matches(|letter: char| !letter.is_ascii_digit()).parse::<u32>();
    let (Ok(major), Ok(minor)) = (number(&version.major), number(&version.minor)) else {
        return Err(VersionError::Unreadable(version.major.clone(), version.minor.clone()));
    };
    match major {
        0 => Err(VersionError::TooOld(major, minor)),
        1 if minor < OLDEST_MINOR => Err(VersionError::TooOld(major, minor)),
        1 => Ok(minor),
        _ => Ok(u32::MAX),
    }
}

/// What an API server of this minor version does not have.
pub fn missing(minor: u32) -> impl Iterator<Item = Feature> {
    FEATURES.into_iter().filter(move |feature| feature.since > minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(major: &str, minor: &str) -> Info {
        Info { major: major.to_owned(), minor: minor.to_owned(), ..Info::default() }
    }

    #[test]
    fn which_versions_are_served() {
        assert_eq!(check(&info("1", "30")), Ok(30));
        assert_eq!(check(&info("1", "36+")), Ok(36));
        assert_eq!(check(&info("2", "0")), Ok(u32::MAX));
        assert_eq!(check(&info("1", "29")), Err(VersionError::TooOld(1, 29)));
        assert_eq!(check(&info("1", "29+")), Err(VersionError::TooOld(1, 29)));
        assert_eq!(check(&info("0", "99")), Err(VersionError::TooOld(0, 99)));
        assert_eq!(check(&info("", "")), Err(VersionError::Unreadable(String::new(), String::new())));
        let said = VersionError::TooOld(1, 29).to_string();
        assert!(said.contains("1.29: 1.30 or later is needed"), "{said}");
    }

    #[test]
    fn what_an_older_server_lacks_is_named() {
        let names = |minor| missing(minor).map(|feature| feature.name).collect::<Vec<_>>();
        assert_eq!(names(OLDEST_MINOR).len(), FEATURES.len());
        assert_eq!(names(33), ["resources of a whole pod (spec.resources)"]);
        assert!(names(34).is_empty() && names(u32::MAX).is_empty());
    }
}
