//! Rows about the processes of a pod: killed, stopped, starved, and under a wall clock that jumps.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_ledger::overlap::Run;
use leader_tests::kit::{ContainerProcesses, LimitOf, PodProcess};
use rustix::process::Signal;

use super::{Broken, Follow, Row};
use crate::stage::until;
use crate::workload::Workload;

const GROUP: &str = "process";
/// How long the stopped are stopped in the rows that continue them: far beyond the deadline of the default lease.
const STOPPED: Duration = Duration::from_secs(40);
/// In hundredths of one processor.
const STARVED: u32 = 1;
/// The agent looks at its limit every second.
const LIMIT_SEEN: Duration = Duration::from_secs(3);
/// A step of the wall clock, in seconds.
const HOUR: i32 = 3600;

fn of_leader(workload: &Workload<'_>, leader: &Run) -> Result<ContainerProcesses> {
    workload.processes(&leader.writer.pod)
}

/// The agents of the pods that stand by.
fn standbys(workload: &Workload<'_>, leader: &Run) -> Result<Vec<PodProcess>> {
    let pods = workload.ready_pods()?;
    let others = pods.iter().filter(|pod| **pod != leader.writer.pod);
    let agents = others.map(|pod| workload.processes(pod)?.agent().cloned()).collect::<Result<Vec<_>>>()?;
    ensure!(!agents.is_empty(), "nobody stands by: {pods:?} are ready");
    Ok(agents)
}

/// Stops some processes, and continues them in this order at the end, or after a time that begins now.
fn stop(processes: Vec<PodProcess>, time: Option<Duration>) -> Result<Broken> {
    for process in &processes {
        process.signal(Signal::STOP)?;
    }
    let go_on = move || {
        for process in processes.iter().filter(|process| process.is_alive()) {
            // It may end just now.
            let _ = process.signal(Signal::CONT);
        }
    };
    let Some(time) = time else {
        return Ok(Broken::mended_by(move || {
            go_on();
            Ok(())
        }));
    };
    let (mended, earlier) = channel::<()>();
    let alarm = thread::spawn(move || {
        let _: Result<(), RecvTimeoutError> = earlier.recv_timeout(time);
        go_on();
    });
    Ok(Broken::mended_by(move || {
        drop(mended);
        alarm.join().map_err(|_| anyhow::anyhow!("whoever continues the processes panicked"))
    }))
}

#[test]
fn the_agent_killed() -> Result<()> {
    Row::new(GROUP, "agent SIGKILL").follow(Follow::AnotherRun).on_leader(|workload, leader| {
        of_leader(workload, leader)?.agent()?.signal(Signal::KILL)?;
        Ok(Broken::nothing())
    })
}

#[test]
fn the_agent_stopped() -> Result<()> {
    Row::new(GROUP, "agent SIGSTOP").follow(Follow::AnotherRun).on_leader(|workload, leader| {
        let agent = of_leader(workload, leader)?.agent()?.clone();
        stop(vec![agent], None)
    })
}

#[test]
fn the_agent_stopped_and_continued_after_forty_seconds() -> Result<()> {
    Row::new(GROUP, "agent SIGSTOP, SIGCONT after 40 s")
        .default_lease()
        .follow(Follow::Lasting(STOPPED + Duration::from_secs(5)))
        .on_leader(|workload, leader| {
            let agent = of_leader(workload, leader)?.agent()?.clone();
            stop(vec![agent], Some(STOPPED))
        })
}

/// Nobody is left who could end the container: the agent's own timer kills the agent, and its death the app.
#[test]
fn the_stub_and_the_agent_stopped() -> Result<()> {
    Row::new(GROUP, "stub and agent SIGSTOP").on_leader(|workload, leader| {
        let processes = of_leader(workload, leader)?;
        stop(vec![processes.stub()?.clone(), processes.agent()?.clone()], None)
    })
}

#[test]
fn the_whole_container_stopped_and_continued_after_forty_seconds() -> Result<()> {
    Row::new(GROUP, "every process of the container SIGSTOP, SIGCONT after 40 s")
        .default_lease()
        .follow(Follow::Lasting(STOPPED + Duration::from_secs(5)))
        .on_leader(|workload, leader| stop(of_leader(workload, leader)?.0, Some(STOPPED)))
}

/// The helpers do not die with the agent, as the app's first process does; continued, they run until the stub has ended.
#[test]
fn the_whole_container_of_an_app_with_helpers_stopped_and_continued() -> Result<()> {
    Row::new(GROUP, "every process SIGSTOP, SIGCONT after 40 s, app of 4 processes")
        .default_lease()
        .on(|writer| writer.variable("BUSY_PROCESSES", "3"))
        .at_once(5)
        .follow(Follow::Lasting(STOPPED + Duration::from_secs(5)))
        .limit("who stops the stub as well keeps what the app started; the time in which it is stopped counts")
        .on_leader(|workload, leader| {
            let mut processes = of_leader(workload, leader)?.0;
            // The worst order: the stub last.
            processes.sort_by_key(|process| std::cmp::Reverse(process.pid_in_container));
            stop(processes, Some(STOPPED))
        })
}

#[test]
fn the_container_killed() -> Result<()> {
    Row::new(GROUP, "container restart: its PID 1 SIGKILL").follow(Follow::AnotherRun).on_leader(|workload, leader| {
        of_leader(workload, leader)?.stub()?.signal(Signal::KILL)?;
        Ok(Broken::nothing())
    })
}

#[test]
fn the_container_asked_to_end() -> Result<()> {
    Row::new(GROUP, "container restart: its PID 1 SIGTERM").follow(Follow::AnotherRun).moves().on_leader(
        |workload, leader| {
            of_leader(workload, leader)?.stub()?.signal(Signal::TERM)?;
            Ok(Broken::nothing())
        },
    )
}

fn starve(workload: &Workload<'_>, leader: &Run, limit_of: LimitOf) -> Result<Broken> {
    let limit = of_leader(workload, leader)?.agent()?.limit_cpu(limit_of, STARVED)?;
    Ok(Broken::mended_by(move || {
        drop(limit);
        Ok(())
    }))
}

/// Less is left of a starved leader's lease for renewals: the shortest lease does not fit any more.
#[test]
fn the_container_starved() -> Result<()> {
    Row::new(GROUP, "CPU quota of 1 % for the container")
        .default_lease()
        .follow(Follow::Lasting(Duration::from_secs(45)))
        .on_leader(|workload, leader| starve(workload, leader, LimitOf::Container))
}

#[test]
fn the_container_starved_with_the_shortest_lease() -> Result<()> {
    Row::new(GROUP, "CPU quota of 1 % for the container, shortest lease")
        .follow(Follow::Lasting(Duration::from_secs(30)))
        .on_leader(|workload, leader| starve(workload, leader, LimitOf::Container))
}

#[test]
fn the_pod_starved() -> Result<()> {
    Row::new(GROUP, "CPU quota of 1 % for the pod, which the agent does not see")
        .default_lease()
        .follow(Follow::Lasting(Duration::from_secs(45)))
        .on_leader(|workload, leader| starve(workload, leader, LimitOf::Pod))
}

/// Starves the leader of a deaf app of four processes, and cuts it off: killing takes processor time, too.
fn starve_and_cut(workload: &Workload<'_>, leader: &Run, limit_of: LimitOf) -> Result<Broken> {
    let starved = starve(workload, leader, limit_of)?;
    thread::sleep(LIMIT_SEEN);
    Ok(starved.and(cut(workload, leader)?))
}

fn deaf_with_helpers(fault: &'static str) -> Row {
    let row = Row::new(GROUP, fault).default_lease().at_once(5);
    row.on(|writer| writer.variable("BUSY_PROCESSES", "3").variable("IGNORE_TERM", "1"))
}

#[test]
fn a_starved_container_cut_off() -> Result<()> {
    deaf_with_helpers("CPU quota of 1 % for the container, and cut off, app of 4 processes that ignores SIGTERM")
        .on_leader(|workload, leader| starve_and_cut(workload, leader, LimitOf::Container))
}

#[test]
fn a_starved_pod_cut_off() -> Result<()> {
    deaf_with_helpers("CPU quota of 1 % for the pod, and cut off, app of 4 processes that ignores SIGTERM")
        .on_leader(|workload, leader| starve_and_cut(workload, leader, LimitOf::Pod))
}

/// Cuts the leader's pod off from the API server.
pub(super) fn cut(workload: &Workload<'_>, leader: &Run) -> Result<Broken> {
    let cut = workload.stage.namespace.cut_from_api_server(&leader.writer.pod)?;
    Ok(Broken::mended_by(move || cut.heal()))
}

/// Steps the wall clock as these processes see it, and back at the end.
fn step(agents: Vec<PodProcess>, seconds: i32) -> Result<Broken> {
    for agent in &agents {
        agent.step_wall_clock(seconds)?;
    }
    Ok(Broken::mended_by(move || {
        for agent in agents.iter().filter(|agent| agent.is_alive()) {
            agent.step_wall_clock(0)?;
        }
        Ok(())
    }))
}

/// Forward and back in turn.
fn an_hour(trial: &AtomicU32) -> i32 {
    if trial.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { HOUR } else { -HOUR }
}

/// How far the Lease's renewTime is ahead of the machine's wall clock, in seconds.
fn renewed_ahead(workload: &Workload<'_>) -> Result<i64> {
    let lease = workload.lease()?;
    let renewed = lease["spec"]["renewTime"].as_str().context("no renewTime")?;
    let renewed: jiff::Timestamp = renewed.parse().with_context(|| format!("renewTime is {renewed}"))?;
    Ok(renewed.as_second() - jiff::Timestamp::now().as_second())
}

#[test]
fn the_wall_clock_of_the_leader_stepped() -> Result<()> {
    let trial = AtomicU32::new(0);
    Row::new(GROUP, "leader's wall clock stepped by an hour, forward or back")
        .follow(Follow::SameRun(Duration::from_secs(12)))
        .on_leader(|workload, leader| {
            let seconds = an_hour(&trial);
            let stepped = step(vec![of_leader(workload, leader)?.agent()?.clone()], seconds)?;
            if seconds > 0 {
                until("a renewal by the new wall clock", || {
                    let ahead = renewed_ahead(workload)?;
                    ensure!(ahead > i64::from(HOUR) / 2, "the Lease was renewed {ahead} s ahead");
                    Ok(())
                })?;
            }
            Ok(stepped)
        })
}

#[test]
fn the_wall_clock_of_a_standby_stepped() -> Result<()> {
    let trial = AtomicU32::new(0);
    Row::new(GROUP, "standby's wall clock stepped by an hour, forward or back")
        .follow(Follow::SameRun(Duration::from_secs(12)))
        .on_leader(|workload, leader| step(standbys(workload, leader)?, an_hour(&trial)))
}

#[test]
fn wall_clocks_two_hours_apart_and_the_leader_cut_off() -> Result<()> {
    let trial = AtomicU32::new(0);
    Row::new(GROUP, "wall clocks 2 hours apart, and the leader cut off").on_leader(|workload, leader| {
        let seconds = an_hour(&trial);
        let leaders = step(vec![of_leader(workload, leader)?.agent()?.clone()], seconds)?;
        let others = step(standbys(workload, leader)?, -seconds)?;
        Ok(leaders.and(others).and(cut(workload, leader)?))
    })
}
