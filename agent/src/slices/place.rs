//! Who this pod is, as others reach it: its addresses, node and name.
//!
//! All of it is found without a change of the pod template, so that a workload which was injected before its Service became leader-only need
//! not be rolled out. The node stands in the pod's own token, where Kubernetes 1.30 and later writes it
//! (<https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens>); the address is the one
//! from which the pod's packets start.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::{id::MAX_LENGTH, names::env};

/// The discard port: nothing is sent, because connecting a UDP socket only looks for a route.
const DISCARD: u16 = 9;
/// Addresses that nobody has (RFC 5737, RFC 3849): whatever leads there is the way out.
const ANYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// A pod as its endpoints describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Its node, where it is known. Who sends traffic to its own node only goes by it.
    pub node: Option<String>,
    /// Its name in DNS below a headless Service, where it has one of its own.
    pub hostname: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Place {
    /// This pod, whose identity is `<pod>_<pod uid>_<container>`; `None` where that is not what it says. `credentials` is the folder of the
    /// pod's token, `address` the pod's address where it is known.
    pub fn find(namespace: &str, identity: &str, credentials: Option<&Path>, address: Option<&str>) -> Option<Self> {
        let mut parts = identity.rsplitn(3, '_').skip(1);
        let (uid, pod) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let given = std::env::var(env::NODE).ok().filter(|node| !node.is_empty());
        let token = credentials.and_then(|folder| fs::read_to_string(folder.join("token")).ok());
        let node = given.or_else(|| node_in(&token?));
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        // With the node's network, or where the user chose one, it is not the pod's.
        let hostname = Some(host).filter(|host| *host == pod && host.len() <= MAX_LENGTH);
        let mut addresses: Vec<IpAddr> = address.and_then(|text| text.parse().ok()).into_iter().collect();
        for found in ANYWHERE.into_iter().filter_map(source) {
            if addresses.iter().all(|known| known.is_ipv4() != found.is_ipv4()) {
                addresses.push(found);
            }
        }
        Some(Self { namespace: namespace.to_owned(), pod, uid, node, hostname, addresses })
    }

    /// The address of a family, as a slice calls it.
    pub fn address(&self, family: &str) -> Option<String> {
        let is_of = |address: &&IpAddr| match family {
            "IPv4" => address.is_ipv4(),
            "IPv6" => address.is_ipv6(),
            _ => false,
        };
        self.addresses.iter().find(is_of).map(ToString::to_string)
    }
}

/// The address from which packets to `target` would start.
fn source(target: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(target, DISCARD)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    let is_link_local = match own {
        IpAddr::V4(own) => own.is_link_local(),
        IpAddr::V6(own) => own.is_unicast_link_local(),
    };
    (!own.is_unspecified() && !own.is_loopback() && !is_link_local).then_some(own)
}

/// The node that a token of a pod's account names. Nobody is trusted for it: a wrong one sends the leader's own traffic astray.
fn node_in(token: &str) -> Option<String> {
    let payload = token.trim().split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims["kubernetes.io"]["node"]["name"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(claims: &Value) -> String {
        format!("e30.{}.c2ln\n", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn the_node_stands_in_the_token() {
        let claims = json!({ "sub": "system:serviceaccount:shop:leader-billing",
            "kubernetes.io": { "namespace": "shop", "node": { "name": "worker-7", "uid": "n" }, "pod": { "name": "billing-1" } } });
        assert_eq!(node_in(&token(&claims)).as_deref(), Some("worker-7"));
        assert_eq!(node_in(&token(&json!({ "kubernetes.io": {} }))), None);
        for broken in ["", "a", "a.b.c", "a.!!.c"] {
            assert_eq!(node_in(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_pod_is_found_by_its_identity() {
        let folder = tempfile::tempdir().unwrap();
        let claims = json!({ "kubernetes.io": { "node": { "name": "worker-7" } } });
        fs::write(folder.path().join("token"), token(&claims)).unwrap();
        let place = Place::find("shop", "billing-7d9_0e5a_app", Some(folder.path()), Some("10.244.0.7")).unwrap();
        assert_eq!((place.pod.as_str(), place.uid.as_str()), ("billing-7d9", "0e5a"));
        assert_eq!((place.node.as_deref(), place.hostname.as_deref()), (Some("worker-7"), None));
        assert_eq!(place.address("IPv4").as_deref(), Some("10.244.0.7"));
        assert_eq!(place.address("FQDN"), None);
        // Outside a cluster.
        assert_eq!(Place::find("shop", "laptop", None, None), None);
    }
}
