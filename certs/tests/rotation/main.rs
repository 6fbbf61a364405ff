//! Rotation with several replicas in any order: whatever one of them shows, every API server trusts.

mod steps;
mod world;

use std::time::Duration;

use proptest::{collection::vec, prelude::*};

use world::{Operation, World};

/// What happens to every cluster.
fn common() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (0..3usize).prop_map(Operation::Look),
        4 => (0..3usize).prop_map(Operation::Act),
        4 => (1..8u8).prop_map(Operation::Seconds),
        3 => (1..16u8).prop_map(Operation::Rounds),
        2 => (0..3usize).prop_map(Operation::Restart),
        1 => Just(Operation::Delete),
        1 => Just(Operation::Break),
        1 => Just(Operation::Damage),
    ]
}

/// Replicas that all hear of the API server, whose clock is set, and whose bundle somebody empties.
fn clocks_jump() -> impl Strategy<Value = Vec<Operation>> {
    // Within the life of a leaf, of an authority, and years.
    let jump = prop_oneof![(-60..60i32), (-1_000..1_000i32), (-100_000_000..100_000_000i32)].prop_map(Operation::Jump);
    vec(prop_oneof![9 => common(), 1 => jump, 1 => Just(Operation::Empty)], 1..40)
}

/// Replicas that may be cut off, while clocks go right and bundles are left alone: what nobody can tell a replica that is cut off
/// is that the bundle which it relies on was emptied, or that it is another year.
fn replicas_are_cut_off() -> impl Strategy<Value = Vec<Operation>> {
    vec(prop_oneof![9 => common(), 1 => (0..3usize).prop_map(Operation::Cut)], 1..40)
}

fn play(replicas: usize, minutes: u64, operations: &[Operation]) -> World {
    let mut world = World::new(replicas, minutes);
    for operation in operations {
        world.perform(operation);
    }
    world.pass(Duration::from_mins(8));
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_shown_is_trusted_though_clocks_jump(replicas in 1..4usize, operations in clocks_jump()) {
        play(replicas, 2, &operations).check_rest();
    }

    #[test]
    fn what_a_replica_that_is_cut_off_shows_is_trusted_until_it_ends(
        replicas in 2..4usize,
        // What is retired may end by itself, or long after its last leaf.
        minutes in prop_oneof![Just(2), Just(7)],
        mut operations in replicas_are_cut_off(),
    ) {
        // One goes on.
        operations.retain(|operation| !matches!(operation, Operation::Cut(index) if index % replicas == 0));
        play(replicas, minutes, &operations).check_rest();
    }
}

#[test]
fn an_authority_follows_another_in_time() {
    let mut world = World::new(2, 2);
    world.pass(Duration::from_mins(21));
    // Each signs for a minute, and for what it takes to announce the next.
    assert!((15..=20).contains(&world.promoted), "{} were promoted", world.promoted);
    world.check_rest();
}

/// As during an upgrade from a version that wrote what signs into the bundle, and nothing beside it: the rotation waits for its end, and
/// no review meets what is not trusted.
#[test]
fn beside_one_that_knows_a_single_authority_none_is_promoted() {
    let mut world = World::new(2, 7);
    world.pass(Duration::from_mins(1));
    // Half of an authority's life, and a minute and a half more.
    for _ in 0..240 {
        world.narrow();
        world.pass(Duration::from_secs(1));
    }
    assert!(world.is_announced(), "nothing was to be promoted");
    assert_eq!(world.promoted, 0);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.promoted, 1);
    world.check_rest();
}
