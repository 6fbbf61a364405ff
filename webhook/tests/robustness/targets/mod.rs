//! What must hold for every input. Each function takes bytes that anybody may have made up and panics when something does not
//! hold: as fuzz targets (webhook/fuzz) and as property tests (`../properties.rs`) they are the same code.

mod bytes;
mod checks;
mod judge;
#[path = "../../../benches/manifests/mod.rs"]
mod manifests;
mod recipe;

use std::time::Duration;

use leader_webhook::inject::Facts;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use bytes::Bytes;
use checks::Depth;
use recipe::Recipe;

/// The processor time that one input may take. A release build needs less than a millisecond for most and some ten for the
/// largest; this is for builds without optimisation and with a fuzzer's checks in every branch, and every check asks several times.
const PATIENCE: Duration = Duration::from_secs(2);

/// A target: its name in webhook/fuzz, and what it does with bytes.
pub(crate) type Target = (&'static str, fn(&[u8]));
/// All of them.
pub(crate) const ALL: [Target; 4] = [("review", review), ("options", options), ("record", record), ("eject", eject)];

/// A body that claims to be a review: what begins like JSON is the body itself, everything else a recipe for one.
pub(crate) fn review(input: &[u8]) {
    review_to(input, Depth::Everything);
}

/// The same, of which one in sixteen is followed further, to try as many as can be.
pub(crate) fn review_quickly(input: &[u8]) {
    let sum = input.iter().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte));
    review_to(input, if sum % 16 == 0 { Depth::Everything } else { Depth::Answer });
}

fn review_to(input: &[u8], depth: Depth) {
    in_time(|| {
        if input.trim_ascii_start().starts_with(b"{") {
            checks::body(input, &Facts::default(), depth);
            return;
        }
        let recipe = Recipe::read(&mut Bytes::new(input));
        checks::body(recipe.review().to_string().as_bytes(), &recipe.facts, depth);
    });
}

/// Annotations of ours with any key and value: a line for each, `key=value` without the prefix. The first byte chooses where
/// they stand.
pub(crate) fn options(input: &[u8]) {
    in_time(|| {
        let mut bytes = Bytes::new(input);
        let mut object = recipe::plain(&mut bytes);
        let on_template = bytes.one_in(4);
        let lines = String::from_utf8_lossy(bytes.rest()).into_owned();
        let holder = if on_template { &mut object["spec"]["template"] } else { &mut object };
        let Some(metadata) = holder["metadata"].as_object_mut() else { return };
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        for (key, value) in lines.lines().map(|line| line.split_once('=').unwrap_or((line, ""))) {
            annotations[format!("leader.io/{key}")] = value.into();
        }
        checks::object(&object, None, &Facts::default());
    });
}

/// A record of any content in a template that is injected otherwise. The first bytes choose the template and what arrives over it.
pub(crate) fn record(input: &[u8]) {
    in_time(|| {
        let mut bytes = Bytes::new(input);
        let plain = recipe::plain(&mut bytes);
        let Some(injected) = judge::injected(&plain) else { return };
        let mut forged = injected.clone();
        let (over_live, live_is_forged) = (bytes.one_in(2), bytes.one_in(2));
        let text = String::from_utf8_lossy(bytes.rest()).into_owned();
        let Some(annotations) = judge::template_mut(&mut forged)["metadata"]["annotations"].as_object_mut() else {
            return;
        };
        annotations.insert("leader.io/injected".to_owned(), text.into());
        let live = if live_is_forged { &forged } else { &injected };
        checks::object(&forged, over_live.then_some(live), &Facts::default());
        checks::object(&plain, Some(&forged), &Facts::default());
    });
}

/// An injected template after any edits, written without the id.
pub(crate) fn eject(input: &[u8]) {
    in_time(|| {
        let mut bytes = Bytes::new(input);
        let plain = recipe::plain(&mut bytes);
        let Some(injected) = judge::injected(&plain) else { return };
        let (over_live, live_is_edited) = (bytes.one_in(2), bytes.one_in(2));
        let mut edited = injected.clone();
        recipe::edit(&mut edited, &mut bytes);
        let live = if live_is_edited { edited.clone() } else { injected };
        judge::take_ids_off(&mut edited);
        checks::ejected(&edited, over_live.then_some(&live));
    });
}

/// A review of 200 kB, created and written over itself.
pub(crate) fn large() {
    let mut live = manifests::LARGE.clone();
    in_time(|| checks::object(&manifests::LARGE, None, &Facts::default()));
    live = judge::stored(&live, None, &Facts::default()).expect("it is injected");
    in_time(|| checks::object(&manifests::LARGE, Some(&live), &Facts::default()));
}

/// Measures the thread's own processor time, which other processes take nothing of.
fn in_time(work: impl FnOnce()) {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
    };
    let started = now();
    work();
    let took = now().saturating_sub(started);
    assert!(took < PATIENCE, "one input took {took:?}");
}

/// An object as a message shows it.
fn shown(object: &Value) -> String {
    serde_json::to_string_pretty(object).unwrap_or_default()
}
