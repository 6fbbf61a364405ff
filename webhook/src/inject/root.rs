//! Where an object has its pod template.

use serde_json::Value;

use super::json::text;

/// Where an object has its pod template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    /// It is a pod, and its own template.
    Pod,
    /// In `spec.template`, as in workloads, Jobs and kinds that this project does not know.
    Template,
    /// In the template of a `CronJob`'s Jobs.
    JobTemplate,
}

impl Root {
    /// Where an object of this kind has its pod template; `None` where it has none.
    pub(super) fn of(object: &Value) -> Option<Self> {
        match (text(object, "apiVersion"), text(object, "kind")?) {
            (Some("v1"), "Pod") => Some(Self::Pod),
            (Some(version), "CronJob") if version.starts_with("batch/") => Some(Self::JobTemplate),
            (_, "Deployment" | "StatefulSet" | "DaemonSet") => Some(Self::Template),
            _ if !object["spec"]["template"].is_null() => Some(Self::Template),
            // A kind of somebody else's, made after the CronJob.
            _ if !object["spec"]["jobTemplate"]["spec"]["template"].is_null() => Some(Self::JobTemplate),
            _ => None,
        }
    }

    /// The template in an object, null where it is missing.
    pub(super) fn of_object(self, object: &Value) -> &Value {
        match self {
            Self::Pod => object,
            Self::Template => &object["spec"]["template"],
            Self::JobTemplate => &object["spec"]["jobTemplate"]["spec"]["template"],
        }
    }

    /// The object with another template.
    pub(super) fn replaced(self, object: &Value, template: Value) -> Value {
        let path = match self {
            Self::Pod => return template,
            Self::Template => &["spec", "template"][..],
            Self::JobTemplate => &["spec", "jobTemplate", "spec", "template"],
        };
        with(object, path, template)
    }

    /// The path of the template's `metadata`.
    pub(super) fn metadata(self) -> &'static str {
        match self {
            Self::Pod => "metadata",
            Self::Template => "spec.template.metadata",
            Self::JobTemplate => "spec.jobTemplate.spec.template.metadata",
        }
    }

    /// The path of the template's `spec`.
    pub(super) fn spec(self) -> &'static str {
        match self {
            Self::Pod => "spec",
            Self::Template => "spec.template.spec",
            Self::JobTemplate => "spec.jobTemplate.spec.template.spec",
        }
    }
}

/// The object with another value at the path. What is replaced, which is most of a workload, is not copied before.
fn with(object: &Value, path: &[&str], value: Value) -> Value {
    let (Some((first, rest)), Value::Object(fields)) = (path.split_first(), object) else {
        return if path.is_empty() { value } else { object.clone() };
    };
    let mut value = Some(value);
    let copy = |(key, field): (&String, &Value)| {
        let new = value.take_if(|_| key == first).map(|value| with(field, rest, value));
        (key.clone(), new.unwrap_or_else(|| field.clone()))
    };
    fields.iter().map(copy).collect()
}
