//! The server to compare with: the webhook's own way to serve TLS and HTTP, and nothing behind it.

use std::{future::pending, sync::Arc};

use axum::{Router, body::Bytes, http::header, routing::post};
use jiff::Timestamp;
use leader_certs::{authority::Authority, leaf::Leaf, resolver::Resolver};
use leader_webhook::server;
use serde_json::json;

use super::client::NAME;

/// Says its address and its authority on standard output, and serves until it is killed.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let now = Timestamp::now();
    let authority = Authority::generate(now)?;
    let leaf = Leaf::issue(&authority, &[NAME.to_owned()], now)?;
    let listener = server::listen(([127, 0, 0, 1], 0).into()).await?;
    println!("{}", json!({"address": listener.local_addr()?, "authority": authority.certificate()}));
    let back = async |body: Bytes| ([(header::CONTENT_TYPE, "application/json")], body);
    let tls = server::tls(Arc::new(Resolver::new(leaf.certified_key)))?;
    server::serve(listener, tls, Router::new().route("/inject", post(back)), pending()).await;
    Ok(())
}
