//! The network namespace that holds a whole cluster, and the addresses in it.

use crate::command::Tool;
use anyhow::{Context, Result, bail};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The range of Service addresses. It is the same in every cluster: each has a network namespace of its own.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The address of the Service `kubernetes` in the namespace `default`: the first of [`SERVICE_RANGE`].
pub const API_SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The port on which the API server listens on the node's address.
pub const API_PORT: u16 = 6443;
/// The port on which the registry listens on the node's address.
pub const REGISTRY_PORT: u16 = 5000;

/// The addresses of one cluster: a /24 for the node and a /24 for its pods, both told by one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    index: u8,
}

impl AddressRange {
    /// The range with this number.
    pub fn new(index: u8) -> Self {
        Self { index }
    }

    /// The lowest range that is not among `taken`.
    ///
    /// # Errors
    /// When all 256 are taken.
    pub fn lowest_free(taken: &[Self]) -> Result<Self> {
        (0..=u8::MAX).map(Self::new).find(|range| !taken.contains(range)).context(
            "all 256 address ranges are taken by clusters; take one down with `cargo xtask cluster down --name NAME`",
        )
    }

    /// The number of this range.
    pub fn index(self) -> u8 {
        self.index
    }

    /// The node's address; API server and registry listen on it.
    pub fn node_address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 10, self.index, 1)
    }

    /// The range of the pods' addresses, e.g. `10.244.0.0/24`.
    pub fn pod_range(self) -> String {
        format!("10.244.{}.0/24", self.index)
    }

    /// The API server's URL.
    pub fn api_url(self) -> String {
        format!("https://{}:{API_PORT}", self.node_address())
    }

    /// The registry as it stands in an image's name, e.g. `10.10.0.1:5000`.
    pub fn registry(self) -> String {
        format!("{}:{REGISTRY_PORT}", self.node_address())
    }
}

/// The file by which the network namespace of this name is entered.
pub fn namespace_file(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// Whether a network namespace of this name exists.
pub fn exists(name: &str) -> bool {
    namespace_file(name).exists()
}

/// Whether the calling thread is in the network namespace of this name.
pub fn is_inside(name: &str) -> bool {
    let identity = |file: PathBuf| std::fs::metadata(file).map(|meta| (meta.dev(), meta.ino())).ok();
    let own = identity(PathBuf::from("/proc/thread-self/ns/net"));
    own.is_some() && own == identity(namespace_file(name))
}

/// Makes the network namespace: a bridge with the node's address, no way out.
///
/// The default route leads to the node itself, so that the range of Service addresses is routable at all.
///
/// # Errors
/// When a namespace of this name exists or a step fails.
pub fn create(name: &str, range: AddressRange) -> Result<()> {
    if exists(name) {
        bail!(
            "a network namespace `{name}` exists that is none of ours; \
             choose another name with `--name`, or remove it with `ip netns del {name}`"
        );
    }
    let address = range.node_address();
    Tool::new("ip").args(["netns", "add", name]).run().context("cannot make a network namespace")?;
    let steps = [
        "ip link set lo up".to_owned(),
        "ip link add node0 type bridge".to_owned(),
        format!("ip addr add {address}/24 dev node0"),
        "ip link set node0 up".to_owned(),
        format!("ip route add default via {address} dev node0"),
        "sysctl -qw net.ipv4.ip_forward=1".to_owned(),
    ];
    for step in steps {
        let mut words = step.split(' ');
        let program = words.next().unwrap_or_default();
        Tool::in_network(name, program).args(words).run().with_context(|| format!("in network namespace `{name}`"))?;
    }
    Ok(())
}

/// Removes the network namespace, and with it every interface in it; nothing to do when there is none.
///
/// # Errors
/// When it could not be removed.
pub fn remove(name: &str) -> Result<()> {
    if exists(name) {
        Tool::new("ip").args(["netns", "del", name]).run().context("cannot remove the network namespace")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_tells_all_addresses() {
        let range = AddressRange::new(3);
        assert_eq!(range.node_address().to_string(), "10.10.3.1");
        assert_eq!(range.pod_range(), "10.244.3.0/24");
        assert_eq!(range.api_url(), "https://10.10.3.1:6443");
        assert_eq!(range.registry(), "10.10.3.1:5000");
    }

    #[test]
    fn the_lowest_free_range_is_taken() {
        let range = AddressRange::new;
        assert_eq!(AddressRange::lowest_free(&[]).unwrap(), range(0));
        assert_eq!(AddressRange::lowest_free(&[range(1), range(0), range(3)]).unwrap(), range(2));
        let all: Vec<_> = (0..=255).map(range).collect();
        assert!(AddressRange::lowest_free(&all).unwrap_err().to_string().contains("all 256"));
    }

    #[test]
    fn a_namespace_that_does_not_exist_is_not_ours() {
        assert!(!exists("leader-no-such-namespace"));
        assert!(!is_inside("leader-no-such-namespace"));
    }
}
