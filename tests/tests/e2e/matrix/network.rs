//! The leader's way to the API server, or to everything, is cut.

use anyhow::Result;
use leader_tests::kit::{Cut, Namespace};

use super::{Broken, Row};

/// A row with the default lease: a cut is what it is made for.
fn cut(fault: &'static str, way: fn(&Namespace<'static>, &str) -> Result<Cut<'static>>) -> Result<()> {
    Row::new("Network", fault).default_lease().on_leader(|workload, leader| {
        let cut = way(&workload.stage.namespace, &leader.writer.pod)?;
        Ok(Broken::mended_by(|| cut.heal()))
    })
}

#[test]
fn packets_dropped_both_ways_and_connections_open() -> Result<()> {
    cut("packets to and from the API server dropped, connections open", Namespace::cut_from_api_server)
}

#[test]
fn requests_dropped() -> Result<()> {
    cut("packets to the API server dropped", Namespace::cut_requests_to_api_server)
}

#[test]
fn replies_dropped() -> Result<()> {
    cut("packets from the API server dropped", Namespace::cut_replies_of_api_server)
}

#[test]
fn connections_refused() -> Result<()> {
    cut("connections to the API server reset and refused", Namespace::refuse_api_server)
}

#[test]
fn cut_from_everything() -> Result<()> {
    cut("pod cut off from everything", Namespace::cut_from_everything)
}
