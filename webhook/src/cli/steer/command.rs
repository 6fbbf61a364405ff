//! `kubectl leader step-down`, `transfer`, `hold` and `resume`.

use std::time::Duration;

use clap::{ArgAction, Args};
use leader_agent::{id::LeaderId, timing::parse_duration};

use super::{Outcome, SteerError, Steering, Wait};
use crate::cli::{
    Error,
    connection::{Connected, Connection},
    dns::PodName,
    session::Voice,
};

/// The exit code when it was asked for, and did not come out so.
const OTHERWISE: u8 = 1;

/// Which election, and how patiently.
#[derive(Args, Debug)]
pub(in crate::cli) struct Common {
    /// The id of the election.
    id: LeaderId,
    /// Wait until it is done, and say how it came out; the exit code is 1 when it is not what was asked for.
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true")]
    wait: bool,
    /// How long to wait, e.g. `30s`; without it twice as long as the Lease lasts, and the leader's grace period, half a minute at least.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    connection: Connection,
}

/// Giving leadership away.
#[derive(Args, Debug)]
// The subcommand has the name, and its arguments are a group under that name already.
#[group(skip)]
pub(in crate::cli) struct StepDown {
    #[command(flatten)]
    common: Common,
}

/// Giving leadership to a pod.
#[derive(Args, Debug)]
#[group(skip)]
pub(in crate::cli) struct Transfer {
    #[command(flatten)]
    common: Common,
    /// The pod that shall lead: one that stands by.
    #[arg(long, value_name = "POD")]
    to: PodName,
}

/// Keeping everyone from leading.
#[derive(Args, Debug)]
#[group(skip)]
pub(in crate::cli) struct Hold {
    #[command(flatten)]
    common: Common,
    /// Why: shown wherever somebody looks for the leader.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Letting an election go on.
#[derive(Args, Debug)]
#[group(skip)]
pub(in crate::cli) struct Resume {
    #[command(flatten)]
    common: Common,
    /// Go on although pods that run the application without the agent are still there or may be made: an elected one runs it beside them.
    #[arg(long)]
    beside_running_pods: bool,
}

/// Asks the leader to step down; gives the exit code.
pub(in crate::cli) async fn step_down(options: &StepDown, voice: &Voice) -> Result<u8, Error> {
    steer(&options.common, voice, async |steering| steering.step_down().await).await
}

/// Asks the leader to give leadership to a pod; gives the exit code.
pub(in crate::cli) async fn transfer(options: &Transfer, voice: &Voice) -> Result<u8, Error> {
    steer(&options.common, voice, async |steering| steering.transfer(&options.to).await).await
}

/// Keeps everyone from leading; gives the exit code.
pub(in crate::cli) async fn hold(options: &Hold, voice: &Voice) -> Result<u8, Error> {
    steer(&options.common, voice, async |steering| steering.hold(options.reason.as_deref()).await).await
}

/// Lets an election go on; gives the exit code.
pub(in crate::cli) async fn resume(options: &Resume, voice: &Voice) -> Result<u8, Error> {
    steer(&options.common, voice, async |steering| steering.resume(options.beside_running_pods).await).await
}

async fn steer(
    common: &Common,
    voice: &Voice,
    work: impl AsyncFnOnce(Steering<'_>) -> Result<Outcome, SteerError>,
) -> Result<u8, Error> {
    let Connected { client, namespace } = common.connection.connect().await?;
    let wait = match (common.wait, common.timeout) {
        (false, _) => Wait::No,
        (true, None) => Wait::Default,
        (true, Some(limit)) => Wait::AtMost(limit),
    };
    // Whoever does not listen any more has asked all the same.
    let tell = |line: String| drop(voice.line(&line));
    let steering = Steering { client: &client, namespace: &namespace, id: &common.id, wait, tell: &tell };
    let Outcome { text, as_asked } = work(steering).await?;
    voice.line(&text)?;
    Ok(if as_asked { 0 } else { OTHERWISE })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        options: Transfer,
    }

    #[test]
    fn waiting_is_asked_for_as_with_kubectl() {
        let parse = |text: &str| {
            let words = ["transfer", "billing", "--to", "pod/billing-b"].into_iter().chain(text.split_whitespace());
            Alone::try_parse_from(words).map(|alone| (alone.options.common.wait, alone.options.common.timeout))
        };
        assert_eq!(parse("").unwrap(), (true, None));
        assert_eq!(parse("--wait").unwrap(), (true, None));
        assert_eq!(parse("--wait=false").unwrap(), (false, None));
        assert_eq!(parse("--timeout 90s").unwrap(), (true, Some(Duration::from_secs(90))));
        assert!(parse("--timeout soon").is_err());
    }

    #[test]
    fn leadership_is_given_to_a_pod_and_to_no_path() {
        let parse = |to: &str| Alone::try_parse_from(["transfer", "billing", "--to", to]);
        for to in ["billing-b", "pod/billing-b"] {
            assert_eq!(parse(to).unwrap().options.to.as_str(), "billing-b");
        }
        for to in ["", "..", "billing-b/log", "billing-b?watch=1", "../secrets/x", "pod/pod/x"] {
            assert!(parse(to).is_err(), "{to}");
        }
    }
}
