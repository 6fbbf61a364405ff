//! The rival of the tests: a candidate on client-go's leader election.

use super::extra::Extra;
use anyhow::Result;
use std::path::PathBuf;

const SOURCES: [(&str, &str); 3] = [
    ("go.mod", include_str!("../../go/candidate/go.mod")),
    ("go.sum", include_str!("../../go/candidate/go.sum")),
    ("main.go", include_str!("../../go/candidate/main.go")),
];

/// The version of client-go in it.
pub fn client_go_version() -> &'static str {
    super::required_version(SOURCES[0].1, "k8s.io/client-go").unwrap_or("of an unknown version")
}

/// The client-go candidate (`tests/go/candidate`): found in the cache folder, or else built, which takes a minute.
///
/// # Errors
/// When there is no cache folder, or the build fails.
pub fn client_go_candidate() -> Result<PathBuf> {
    let candidate = Extra {
        label: "candidate",
        program: "client-go-candidate",
        title: format!("the client-go candidate with client-go {}", client_go_version()),
        sources: &SOURCES,
        package: ".",
        arguments: &[],
    };
    candidate.find_or_build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rival_is_of_the_release_that_the_cluster_runs() {
        // Kubernetes 1.x.y is released with client-go 0.x.y.
        let cluster = super::super::kubernetes_version().trim_start_matches("v1");
        assert_eq!(client_go_version().trim_start_matches("v0"), cluster);
    }
}
