//! What a failed request says to the person who reads the refusal.

/// The reason as the API server gives it. The client's own text of such an error repeats it as the dump of a Rust value.
pub fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn the_api_servers_words_and_no_dump() {
        let status = Status::failure("leases is forbidden", "Forbidden").with_code(403);
        assert_eq!(reason(&kube::Error::Api(Box::new(status))), "leases is forbidden");
        let wordless = reason(&kube::Error::Api(Box::new(Status::failure("", "Forbidden").with_code(403))));
        assert!(wordless.contains("Forbidden"), "{wordless}");
    }
}
