//! The status file's folder: a volume that agent and app share.
//!
//! Where the user has mounted an emptyDir that the folder lies in, that one is shared; else one of ours is mounted there, in every
//! container of the pod that has nothing else there.

use leader_agent::names;
use serde_json::{Value, json};

use super::{
    Refusal,
    check::is_within,
    json::{containers, items, text},
    options::Chosen,
};

/// Where the status file is when nothing else is asked for.
pub(super) const DEFAULT: &str = leader_agent::names::DEFAULT_STATUS_FILE;
/// Our emptyDir.
pub(super) const VOLUME: &str = "leader-io-status";

/// What a volume of ours would hide: an image's own files, and what the kernel shows.
const SYSTEM: [&str; 12] =
    ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr", names::TOKEN_PATH];
/// The same for these folders themselves. What lies in them may be anything.
const ROOTS: [&str; 5] = ["/home", "/opt", "/root", "/srv", "/var"];

/// The longest path (`PATH_MAX`, with room for `.new`).
const LONGEST: usize = 4000;

/// Whether a path can be that of a status file; what it had to be, where it cannot.
pub(super) fn check(path: &str) -> Result<(), &'static str> {
    let expected = "the absolute path of a file in a folder, e.g. `/leader-status/leader`";
    let mut parts = path.split('/').skip(1);
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let is_path = path.starts_with('/') && parts.clone().count() >= 2 && parts.all(is_plain);
    let is_text = path.len() <= LONGEST && !path.contains(|character: char| character.is_control() || character == ':');
    if is_path && is_text && !is_within(path, names::MOUNT_PATH) { Ok(()) } else { Err(expected) }
}

/// The folder of a path that was checked.
pub(super) fn folder(path: &str) -> &str {
    path.rfind('/').map_or("/", |at| &path[..at])
}

/// How the folder is shared.
#[derive(Clone, Copy, Debug)]
pub(super) enum Share<'a> {
    /// By a volume of ours, mounted there.
    Ours,
    /// By an emptyDir of the user's, mounted so.
    Users(&'a Value),
}

impl Share<'_> {
    /// The mount of a container of ours.
    pub(super) fn mount(self, folder: &str) -> Value {
        match self {
            Self::Ours => json!({"name": VOLUME, "mountPath": folder}),
            Self::Users(mount) => json!({"name": mount["name"], "mountPath": mount["mountPath"]}),
        }
    }
}

/// How the folder of `path` is shared in a user's template.
pub(super) fn share<'a>(template: &Value, chosen: Chosen<'a>, path: &str) -> Result<Share<'a>, Refusal> {
    let folder = folder(path);
    let refuse = |reason: String| Err(Refusal::StatusFolder { folder: folder.to_owned(), reason });
    let Some(mount) = covering(chosen.container, folder) else {
        let hides = SYSTEM.into_iter().any(|system| is_within(folder, system)) || ROOTS.contains(&folder);
        return if hides { refuse("belongs to the image or the system".to_owned()) } else { Ok(Share::Ours) };
    };
    let name = text(mount, "name").unwrap_or_default();
    let is_empty_dir = |volume: &&Value| text(volume, "name") == Some(name) && volume["emptyDir"].is_object();
    let refuse = |reason: &str| refuse(format!("is in the volume `{name}` of container `{}`, {reason}", chosen.name));
    if !items(&template["spec"], "volumes").iter().any(|volume| is_empty_dir(&volume)) {
        return refuse("which is not an emptyDir");
    }
    if mount["readOnly"] == true {
        return refuse("which is mounted readOnly");
    }
    if ["subPath", "subPathExpr"].into_iter().any(|key| text(mount, key).is_some()) {
        return refuse("of which a part is mounted (subPath)");
    }
    Ok(Share::Users(mount))
}

/// The mount of a container in which a folder lies, if there is one: the nearest.
fn covering<'a>(container: &'a Value, folder: &str) -> Option<&'a Value> {
    let mounts = items(container, "volumeMounts").iter();
    let around = mounts.filter(|mount| text(mount, "mountPath").is_some_and(|path| is_within(folder, path)));
    around.max_by_key(|mount| text(mount, "mountPath").map_or(0, |path| path.trim_end_matches('/').len()))
}

/// The containers of a user's template into which our volume is mounted, by their places.
pub(super) fn mounted_in(template: &Value, chosen: Chosen<'_>, folder: &str) -> Vec<usize> {
    let all = containers(template).iter().enumerate();
    let mounted = all.filter(|(index, container)| *index == chosen.index || covering(container, folder).is_none());
    mounted.map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::root::Root;

    #[test]
    fn a_path_names_a_file_in_a_folder() {
        for path in [DEFAULT, "/tmp/leader_status", "/var/run/app/leader", "/a/b"] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
        let long = format!("/a/{}", "b".repeat(LONGEST));
        let wrong = ["", "/", "leader", "/leader_status", "/tmp/", "/tmp/../etc/x", "/tmp//x", "/a/b\n", "/leader/x"];
        for path in wrong.into_iter().chain([long.as_str(), "tmp/leader"]) {
            assert!(check(path).is_err(), "{path}");
        }
        assert_eq!(folder("/tmp/app/leader"), "/tmp/app");
    }

    fn shared(container: &Value, volumes: &Value, path: &str) -> Result<String, String> {
        let template = json!({"spec": {"containers": [container], "volumes": volumes}});
        let chosen = Chosen { index: 0, name: "app", container, root: Root::Template };
        let share = share(&template, chosen, path).map_err(|refusal| refusal.to_string())?;
        Ok(share.mount(folder(path)).to_string())
    }

    #[test]
    fn an_empty_dir_of_the_users_is_shared_and_else_there_is_one_of_ours() {
        let volumes = json!([{"name": "tmp", "emptyDir": {}}, {"name": "all", "emptyDir": {}}, {"name": "claim",
            "persistentVolumeClaim": {"claimName": "c"}}]);
        let mounting = |mounts: Value| json!({"name": "app", "volumeMounts": mounts});
        let of = |mounts: Value, path: &str| shared(&mounting(mounts), &volumes, path);
        let ours = of(json!([{"name": "tmp", "mountPath": "/tmp/cache"}]), "/tmp/leader_status").unwrap();
        assert_eq!(ours, r#"{"name":"leader-io-status","mountPath":"/tmp"}"#);
        let mounts = json!([{"name": "all", "mountPath": "/"}, {"name": "tmp", "mountPath": "/tmp/"}]);
        assert_eq!(of(mounts, "/tmp/a/leader").unwrap(), r#"{"name":"tmp","mountPath":"/tmp/"}"#);
        for (mount, part) in [
            (json!({"name": "claim", "mountPath": "/tmp"}), "`claim` of container `app`, which is not an emptyDir"),
            (json!({"name": "tmp", "mountPath": "/tmp", "readOnly": true}), "mounted readOnly"),
            (json!({"name": "tmp", "mountPath": "/tmp", "subPath": "x"}), "subPath"),
        ] {
            let error = of(json!([mount]), "/tmp/leader").unwrap_err();
            assert!(error.contains(part) && error.contains("`/tmp`"), "{error}");
        }
        for path in ["/etc/leader", "/usr/local/leader", "/var/leader", "/root/leader"] {
            let error = of(json!([]), path).unwrap_err();
            assert!(error.contains("belongs to the image"), "{error}");
        }
        assert!(of(json!([]), "/var/app/leader").is_ok());
    }

    #[test]
    fn ours_is_mounted_where_nothing_else_is() {
        let template = json!({"spec": {"containers": [{"name": "app"}, {"name": "a", "volumeMounts": [{"name": "x", "mountPath": "/s"}]},
            {"name": "b", "volumeMounts": [{"name": "x", "mountPath": "/s/deeper"}]}]}});
        let chosen =
            Chosen { index: 0, name: "app", container: &template["spec"]["containers"][0], root: Root::Template };
        assert_eq!(mounted_in(&template, chosen, "/s"), [0, 2]);
    }
}
