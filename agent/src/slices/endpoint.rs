//! How a slice is changed: values in, values out.
//!
//! Everything that this program does not know stays, and so does whoever else is in there while this pod is not.

use serde_json::{Value, json};

use super::{PUBLISH_NOT_READY, place::Place};

/// The annotation by which a write is told apart from one that got no answer.
const TOUCHED: &str = "leader.io/touched";

/// What a pod is to be in a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Not in it.
    Out,
    /// Its app was started, and is not ready: in it where the Service says that this does not matter.
    Started,
    /// In it.
    Ready,
}

/// The slice as it should be; `None` where it is so. With `touch` it is changed in any case, and differently for each number.
pub fn changed(slice: &Value, place: &Place, aim: Aim, touch: Option<u64>) -> Option<Value> {
    let publishes = slice["metadata"]["annotations"][PUBLISH_NOT_READY] == "true";
    let address = slice["addressType"].as_str().and_then(|family| place.address(family));
    let wanted = match (aim, address) {
        (Aim::Ready, Some(address)) => Some(endpoint(place, &address, true)),
        (Aim::Started, Some(address)) if publishes => Some(endpoint(place, &address, false)),
        _ => None,
    };
    let there = slice["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_own = |endpoint: &&Value| endpoint["targetRef"]["uid"] == place.uid.as_str();
    let endpoints = if let Some(wanted) = wanted {
        if there.len() == 1 && is_same(&there[0], &wanted) && touch.is_none() {
            return None;
        }
        vec![wanted]
    } else {
        let others: Vec<Value> = there.iter().filter(|endpoint| !is_own(endpoint)).cloned().collect();
        if others.len() == there.len() && touch.is_none() {
            return None;
        }
        others
    };
    let mut changed = slice.clone();
    changed["endpoints"] = Value::Array(endpoints);
    if let Some(number) = touch {
        changed["metadata"]["annotations"][TOUCHED] = format!("{}/{number}", place.uid).into();
    }
    Some(changed)
}

/// Whether an endpoint says what the wanted one says; the API server and others may have added to it.
fn is_same(endpoint: &Value, wanted: &Value) -> bool {
    let keys = ["addresses", "conditions", "nodeName", "hostname"];
    endpoint["targetRef"]["uid"] == wanted["targetRef"]["uid"] && keys.iter().all(|key| endpoint[*key] == wanted[*key])
}

/// This pod as an endpoint, as Kubernetes' own controller writes it.
fn endpoint(place: &Place, address: &str, is_ready: bool) -> Value {
    let mut endpoint = json!({
        "addresses": [address],
        // Who is in here shall get traffic; whether the app is ready is the second one.
        "conditions": { "ready": true, "serving": is_ready, "terminating": false },
        "targetRef": { "kind": "Pod", "namespace": place.namespace, "name": place.pod, "uid": place.uid },
    });
    if let Some(node) = &place.node {
        endpoint["nodeName"] = node.as_str().into();
    }
    if let Some(hostname) = &place.hostname {
        endpoint["hostname"] = hostname.as_str().into();
    }
    endpoint
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(uid: &str) -> Place {
        Place {
            namespace: "shop".to_owned(),
            pod: "billing-1".to_owned(),
            uid: uid.to_owned(),
            node: Some("n1".to_owned()),
            hostname: None,
            addresses: vec!["10.244.0.7".parse().unwrap()],
        }
    }

    fn slice(family: &str, endpoints: &Value) -> Value {
        json!({
            "metadata": { "name": "web-leader-ipv4", "resourceVersion": "5", "annotations": { "team": "shop" } },
            "addressType": family, "ports": [{ "port": 80 }], "newer": 1, "endpoints": endpoints,
        })
    }

    #[test]
    fn the_leader_alone_is_in_and_everything_else_stays() {
        let empty = slice("IPv4", &Value::Null);
        let inside = changed(&empty, &place("u1"), Aim::Ready, None).unwrap();
        let endpoint = &inside["endpoints"][0];
        assert_eq!(endpoint["addresses"], json!(["10.244.0.7"]));
        assert_eq!((&endpoint["nodeName"], &endpoint["targetRef"]["name"]), (&json!("n1"), &json!("billing-1")));
        assert_eq!(endpoint["conditions"], json!({ "ready": true, "serving": true, "terminating": false }));
        for key in ["metadata", "ports", "newer", "addressType"] {
            assert_eq!(inside[key], empty[key], "{key}");
        }
        assert_eq!(changed(&inside, &place("u1"), Aim::Ready, None), None);
        // The next leader replaces whoever is there.
        let next = changed(&inside, &place("u2"), Aim::Ready, None).unwrap();
        assert_eq!(
            (next["endpoints"].as_array().unwrap().len(), &next["endpoints"][0]["targetRef"]["uid"]),
            (1, &json!("u2"))
        );
        // And the old one takes nobody else out.
        assert_eq!(changed(&next, &place("u1"), Aim::Out, None), None);
        let out = changed(&inside, &place("u1"), Aim::Out, None).unwrap();
        assert_eq!(out["endpoints"], json!([]));
        assert_eq!(changed(&out, &place("u1"), Aim::Out, None), None);
        assert_eq!(changed(&empty, &place("u1"), Aim::Out, None), None);
    }

    #[test]
    fn who_is_not_ready_is_in_where_that_does_not_matter() {
        let mut waits = slice("IPv4", &json!([]));
        assert_eq!(changed(&waits, &place("u1"), Aim::Started, None), None);
        waits["metadata"]["annotations"][PUBLISH_NOT_READY] = json!("true");
        let inside = changed(&waits, &place("u1"), Aim::Started, None).unwrap();
        assert_eq!(
            inside["endpoints"][0]["conditions"],
            json!({ "ready": true, "serving": false, "terminating": false })
        );
        assert!(changed(&inside, &place("u1"), Aim::Ready, None).is_some());
        // One that was ready and is not any more.
        let ready = changed(&slice("IPv4", &json!([])), &place("u1"), Aim::Ready, None).unwrap();
        assert_eq!(changed(&ready, &place("u1"), Aim::Started, None).unwrap()["endpoints"], json!([]));
    }

    #[test]
    fn a_family_that_the_pod_does_not_have_stays_empty() {
        assert_eq!(changed(&slice("IPv6", &json!([])), &place("u1"), Aim::Ready, None), None);
        assert_eq!(changed(&slice("FQDN", &json!([])), &place("u1"), Aim::Ready, None), None);
        let mut dual = place("u1");
        dual.addresses.push("fd00::7".parse().unwrap());
        let inside = changed(&slice("IPv6", &json!([])), &dual, Aim::Ready, None).unwrap();
        assert_eq!(inside["endpoints"][0]["addresses"], json!(["fd00::7"]));
    }

    #[test]
    fn a_write_that_must_change_something_does() {
        let empty = slice("IPv4", &json!([]));
        let one = changed(&empty, &place("u1"), Aim::Out, Some(1)).unwrap();
        assert_eq!((&one["endpoints"], &one["metadata"]["annotations"]["team"]), (&json!([]), &json!("shop")));
        assert_ne!(one, empty);
        assert_ne!(changed(&one, &place("u1"), Aim::Out, Some(2)).unwrap(), one);
        let mut bare = empty.clone();
        bare["metadata"].as_object_mut().unwrap().remove("annotations");
        assert_ne!(changed(&bare, &place("u1"), Aim::Out, Some(1)).unwrap(), bare);
    }
}
