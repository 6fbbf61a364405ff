//! The fuzz targets of webhook/fuzz as property tests, with their corpus and with bytes of proptest.

mod targets;

use std::{
    cell::Cell,
    env, fs,
    panic::{self, AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Once,
    thread,
};

use proptest::{
    collection::vec,
    num::u8::ANY,
    test_runner::{Config, TestCaseError, TestError, TestRunner},
};

use targets::{ALL, Target};

/// Whether as many trials are made as a release asks for: `cargo xtask test --long`.
fn is_long() -> bool {
    env::var_os("LEADER_TESTS_LONG").is_some_and(|value| value == "1")
}

thread_local! {
    /// Whether panics of this thread are told by whoever catches them.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Keeps the panics quiet from which a failure is made smaller: there are hundreds, each with a whole review in it.
fn tell_only_what_is_not_caught() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !CAUGHT.get() {
                tell(panic);
            }
        }));
    });
}

/// Tries a target with inputs of proptest, on all processors.
fn try_out((name, target): Target, trials: u32) {
    let threads = u32::try_from(thread::available_parallelism().map_or(1, usize::from)).unwrap_or(1);
    tell_only_what_is_not_caught();
    let failure = thread::scope(|scope| {
        let run = || {
            CAUGHT.set(true);
            let config = Config { cases: trials.div_ceil(threads), failure_persistence: None, ..Config::default() };
            // Recipes are read to about this length; the raw texts in the corpus are longer.
            TestRunner::new(config).run(&vec(ANY, 0..96), |input| {
                let result = catch_unwind(AssertUnwindSafe(|| target(&input)));
                result.map_err(|cause| TestCaseError::fail(message(cause.as_ref())))
            })
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().find_map(|thread| thread.join().expect("failures are caught").err())
    });
    match failure {
        None => {}
        Some(TestError::Fail(reason, input)) => panic!("{name} fails for {input:?}: {reason}"),
        Some(TestError::Abort(reason)) => panic!("{name} was given up: {reason}"),
    }
}

fn message(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}

#[test]
fn reviews() {
    if is_long() {
        try_out(("review", targets::review_quickly), 1_000_000);
    } else {
        try_out(ALL[0], 2_000);
    }
}

#[test]
fn options() {
    try_out(ALL[1], if is_long() { 20_000 } else { 500 });
}

#[test]
fn records() {
    try_out(ALL[2], if is_long() { 20_000 } else { 500 });
}

#[test]
fn ejections() {
    try_out(ALL[3], if is_long() { 20_000 } else { 500 });
}

#[test]
fn a_large_review() {
    targets::large();
}

/// What fuzzing found worth keeping, and what was put there for it to begin with.
#[test]
fn the_corpus() {
    for (name, target) in ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let inputs: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!inputs.is_empty(), "{} is empty", folder.display());
        for input in inputs {
            target(&fs::read(&input).unwrap());
        }
    }
}
