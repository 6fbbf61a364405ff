//! Logs who leads, and every change of it. This process is a candidate as well, with nothing to do when it leads:
//!
//! ```console
//! $ cargo run -p leader-agent --example new_leader -- example-controller default
//! ```

use std::{env, future, process};

use leader_agent::election::{Election, ElectionError};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ElectionError> {
    let mut words = env::args().skip(1);
    let name = words.next().unwrap_or_else(|| "example-controller".to_owned());
    let mut election = Election::new(name)
        .identity(env::var("POD_NAME").unwrap_or_else(|_| format!("new-leader-example-{}", process::id())))
        .on_new_leader(|identity| println!("the new leader is {identity}"));
    if let Some(namespace) = words.next() {
        election = election.namespace(namespace);
    }
    let stop = election.stop_handle();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.stop();
        }
    });
    election.run(|_| future::pending::<()>()).await?;
    Ok(())
}
