//! The Lease as the API server keeps it: one counter of resource versions, a uid for each object, compare-and-swap.

use leader_agent::lease::record::Record;
use serde_json::{Value, json};

/// One Lease, or none.
#[derive(Default)]
pub(crate) struct Store {
    object: Option<Value>,
    record: Option<Record>,
    version: u64,
    objects: u64,
    /// Its memory went back in time.
    pub restored: bool,
}

impl Store {
    /// What a quorum read answers.
    pub(crate) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// A PUT. `None` is a conflict: another state, another object, or nothing there.
    pub(crate) fn put(&mut self, body: Value) -> Option<Record> {
        let version = body["metadata"]["resourceVersion"].as_str();
        let uid = body["metadata"]["uid"].as_str();
        let fits = match &self.record {
            // An old resourceVersion alone creates the object (201): a real server was seen to do so.
            None => uid.is_none(),
            Some(record) => {
                // Without a version a Lease is not updated (422). Kinds that allow it are, and the mistake to rely on that is
                // told from a creation by its uid.
                let newest = record.resource_version.to_string();
                version.map_or(uid.is_some(), |version| version == newest)
                    && uid.is_none_or(|uid| uid == record.uid.as_str())
            }
        };
        fits.then(|| self.keep(body))
    }

    /// A DELETE without preconditions; the resource version of the deletion.
    pub(crate) fn delete(&mut self) -> Option<u64> {
        self.object.take()?;
        self.record = None;
        self.version += 1;
        Some(self.version)
    }

    /// A change by someone who asks nobody.
    pub(crate) fn edit(&mut self, change: impl FnOnce(&mut Value)) -> Option<Record> {
        let mut object = self.object.clone()?;
        change(&mut object);
        (Some(&object) != self.object.as_ref()).then(|| self.keep(object))
    }

    /// What is stored now, for [`Self::restore`].
    pub(crate) fn snapshot(&self) -> (Option<Value>, u64) {
        (self.object.clone(), self.version)
    }

    /// The server's memory goes back in time, resource versions too.
    pub(crate) fn restore(&mut self, (object, version): (Option<Value>, u64)) {
        self.record = object.clone().map(|object| Record::parse(object).expect("it was stored"));
        (self.object, self.version) = (object, version);
        self.restored = true;
    }

    /// The object as it stands.
    pub(crate) fn object(&self) -> Option<&Value> {
        self.object.as_ref()
    }

    fn keep(&mut self, mut object: Value) -> Record {
        self.version += 1;
        if let Some(old) = &self.record {
            object["metadata"]["uid"] = json!(old.uid);
        } else {
            self.objects += 1;
            object["metadata"]["uid"] = json!(format!("uid{}", self.objects));
        }
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let record = Record::parse(object.clone()).expect("a stored object has uid and version");
        self.object = Some(object);
        self.record = Some(record.clone());
        record
    }
}
