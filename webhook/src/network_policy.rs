//! Whether network policies keep a pod from the API server, as far as they can tell.
//!
//! How a policy is applied is up to the cluster's network: some never apply it to the API server, some apply it to the address of its
//! Service, most to the addresses behind that. So a policy counts as letting through when it lets any of those through, and
//! who asks should have another reason to ask: an agent that does not get through. Pure: values in, names out.

use std::net::IpAddr;

use serde_json::Value;

/// The policies of a namespace that together keep pods with these labels from every one of `targets`; none where one gets through.
pub fn blocking<'a>(policies: &[&'a Value], labels: &Value, targets: &[(IpAddr, u16)]) -> Vec<&'a str> {
    let selecting: Vec<&'a Value> = policies
        .iter()
        .copied()
        .filter(|policy| is_for_egress(policy) && selects(&policy["spec"]["podSelector"], labels))
        .collect();
    let rules = || selecting.iter().flat_map(|policy| policy["spec"]["egress"].as_array().into_iter().flatten());
    if targets.is_empty() || rules().any(|rule| targets.iter().any(|target| permits(rule, *target))) {
        return Vec::new();
    }
    selecting.iter().filter_map(|policy| policy["metadata"]["name"].as_str()).collect()
}

/// Whether what the policy selects may send only what it says.
fn is_for_egress(policy: &Value) -> bool {
    let spec = &policy["spec"];
    match spec["policyTypes"].as_array() {
        Some(types) => types.iter().any(|kind| kind == "Egress"),
        // The API server fills it in; files may leave it out.
        None => !spec["egress"].is_null(),
    }
}

/// Whether a label selector matches. An empty one matches everything.
fn selects(selector: &Value, labels: &Value) -> bool {
    let equal =
        selector["matchLabels"].as_object().into_iter().flatten().all(|(key, value)| labels[key.as_str()] == *value);
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    equal
        && expressions.into_iter().all(|expression| {
            let label = &labels[expression["key"].as_str().unwrap_or_default()];
            let is_one = expression["values"].as_array().is_some_and(|values| values.contains(label));
            match expression["operator"].as_str() {
                Some("In") => is_one,
                Some("NotIn") => !is_one,
                Some("Exists") => !label.is_null(),
                Some("DoesNotExist") => label.is_null(),
                _ => false,
            }
        })
}

/// Whether a rule lets TCP to the target through. Selected pods and namespaces are not where an API server is.
fn permits(rule: &Value, (address, port): (IpAddr, u16)) -> bool {
    let list = |key: &str| rule[key].as_array().filter(|list| !list.is_empty());
    let to_port = list("ports").is_none_or(|ports| ports.iter().any(|entry| is_port(entry, port)));
    let to_address = list("to").is_none_or(|peers| peers.iter().any(|peer| is_block(&peer["ipBlock"], address)));
    to_port && to_address
}

fn is_port(entry: &Value, port: u16) -> bool {
    let is_tcp = entry["protocol"].as_str().is_none_or(|protocol| protocol == "TCP");
    is_tcp
        && match (&entry["port"], entry["endPort"].as_u64()) {
            (Value::Null, _) => true,
            (first, Some(last)) => first.as_u64().is_some_and(|first| (first..=last).contains(&u64::from(port))),
            (only, None) => only.as_u64() == Some(u64::from(port)),
        }
}

fn is_block(block: &Value, address: IpAddr) -> bool {
    let contains = |text: &Value| text.as_str().is_some_and(|range| is_in(range, address));
    contains(&block["cidr"]) && !block["except"].as_array().into_iter().flatten().any(contains)
}

/// Whether an address is in a range such as `10.0.0.0/8`.
fn is_in(range: &str, address: IpAddr) -> bool {
    let Some((network, length)) = range.split_once('/') else { return false };
    let (Ok(network), Ok(length)) = (network.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    let (network, address, width) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (u128::from(u32::from(network)), u128::from(u32::from(address)), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => (u128::from(network), u128::from(address), 128),
        _ => return false,
    };
    // All bits are shifted out where the range is everything.
    length <= width && (network ^ address).checked_shr(width - length).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SERVICE: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1)), 443);
    const BEHIND: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(10, 10, 1, 1)), 6443);

    fn policy(egress: &Value) -> Value {
        json!({
            "metadata": { "name": "locked" },
            "spec": { "podSelector": { "matchLabels": { "app": "billing" } }, "policyTypes": ["Egress"], "egress": egress },
        })
    }

    fn blocked(policies: &[Value]) -> Vec<String> {
        let labels = json!({ "app": "billing", "tier": "back" });
        let policies: Vec<_> = policies.iter().collect();
        blocking(&policies, &labels, &[SERVICE, BEHIND]).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn what_lets_nothing_out_blocks() {
        assert_eq!(blocked(&[policy(&json!([]))]), ["locked"]);
        assert_eq!(blocked(&[policy(&Value::Null)]), ["locked"]);
        let dns = json!([{ "to": [{ "namespaceSelector": {} }], "ports": [{ "protocol": "UDP", "port": 53 }] }]);
        assert_eq!(blocked(&[policy(&dns)]), ["locked"]);
        assert_eq!(blocked(&[policy(&dns), policy(&json!([]))]), ["locked", "locked"]);
    }

    #[test]
    fn one_that_lets_through_is_enough() {
        let open = |rule: Value| blocked(&[policy(&json!([])), policy(&json!([rule]))]).is_empty();
        assert!(open(json!({})));
        assert!(open(json!({ "ports": [{ "port": 443 }] })));
        assert!(open(json!({ "ports": [{ "protocol": "TCP" }] })));
        assert!(open(json!({ "ports": [{ "port": 6000, "endPort": 7000 }] })));
        assert!(open(json!({ "to": [{ "ipBlock": { "cidr": "10.10.1.1/32" } }] })));
        assert!(open(json!({ "to": [{ "ipBlock": { "cidr": "0.0.0.0/0" } }], "ports": [{ "port": 6443 }] })));

        assert!(!open(json!({ "ports": [{ "port": 8080 }] })));
        assert!(!open(json!({ "ports": [{ "protocol": "UDP", "port": 443 }] })));
        assert!(!open(json!({ "ports": [{ "port": "https" }] })));
        assert!(!open(json!({ "to": [{ "ipBlock": { "cidr": "192.168.0.0/16" } }] })));
        let except = json!({ "cidr": "10.0.0.0/8", "except": ["10.96.0.0/12", "10.10.0.0/16"] });
        assert!(!open(json!({ "to": [{ "ipBlock": except }] })));
        // The Service's address with the port behind it is neither.
        assert!(!open(json!({ "to": [{ "ipBlock": { "cidr": "10.96.0.1/32" } }], "ports": [{ "port": 6443 }] })));
    }

    #[test]
    fn only_what_selects_the_pod_and_speaks_of_egress_counts() {
        let with = |pointer: &str, value: Value| {
            let mut policy = policy(&json!([]));
            *policy.pointer_mut(pointer).unwrap() = value;
            blocked(&[policy]).is_empty()
        };
        assert!(with("/spec/policyTypes", json!(["Ingress"])));
        assert!(with("/spec/podSelector", json!({ "matchLabels": { "app": "orders" } })));
        assert!(!with("/spec/podSelector", json!({})));
        let expression = |operator: &str, values: Value| json!({ "matchExpressions": [{ "key": "tier", "operator": operator, "values": values }] });
        assert!(!with("/spec/podSelector", expression("In", json!(["back"]))));
        assert!(with("/spec/podSelector", expression("NotIn", json!(["back"]))));
        assert!(!with("/spec/podSelector", expression("Exists", Value::Null)));
        assert!(with("/spec/podSelector", expression("DoesNotExist", Value::Null)));
    }

    #[test]
    fn ranges_of_addresses() {
        for (range, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("1.2.3.4/32", "1.2.3.4", true),
            ("1.2.3.4/32", "1.2.3.5", false),
            ("::/0", "fd00::1", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "1.2.3.4", false),
            ("10.0.0.0/33", "10.0.0.1", false),
            ("10.0.0.0", "10.0.0.0", false),
            ("nonsense/8", "10.0.0.0", false),
        ] {
            assert_eq!(is_in(range, address.parse().unwrap()), expected, "{range} {address}");
        }
    }
}
