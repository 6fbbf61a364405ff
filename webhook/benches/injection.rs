//! What injection costs: `cargo bench -p leader-webhook`, or with a table and all the rest `cargo xtask bench injection`.

mod manifests;

use std::{hint::black_box, sync::LazyLock};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use leader_agent::names;
use leader_webhook::{
    inject::{self, Decision, Defaults, Facts, ImageAnswer, ImageFacts, Outcome},
    review::{Plan, Review},
    sent::Sent,
};
use mimalloc::MiMalloc;
use serde_json::Value;

/// The webhook's own.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

static MANIFESTS: [(&str, &LazyLock<Value>); 3] =
    [("small", &manifests::SMALL), ("median", &manifests::MEDIAN), ("large", &manifests::LARGE)];

/// What is known without asking, so that an image's stop signal and entry point are not looked up.
fn facts() -> Facts {
    let image = ImageFacts { digest: "sha256:00ff".to_owned(), ..ImageFacts::default() };
    Facts { image: Some(ImageAnswer::Found(image)), ..Facts::default() }
}

fn decided(object: &Value, old: Option<&Value>, facts: &Facts) -> Outcome {
    let defaults = Defaults { agent_image: "ghcr.io/leader-io/leader-agent:0.1.0".to_owned(), agent_pull_secret: None };
    match inject::workload(object, old, &defaults, facts) {
        Ok(Decision::Done(outcome)) => outcome,
        other => panic!("the manifest cannot be injected: {other:?}"),
    }
}

/// The whole review: the bytes of the answer to the bytes of a review.
fn answered(body: &[u8], facts: &Facts) -> Vec<u8> {
    let review = Review::parse(body).expect("it is a review");
    assert_eq!(review.plan("leader-system"), Plan::Inject);
    let object = review.object.as_ref().expect("it has an object");
    let response = review.accept(decided(object, review.old.as_ref(), facts));
    assert!(response.allowed, "{response:?}");
    serde_json::to_vec(&Sent::from(response)).expect("an answer is JSON")
}

fn without_id(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.retain(|key, _| !key.starts_with(names::PREFIX));
    }
    object
}

fn injection(criterion: &mut Criterion) {
    let facts = facts();
    for (size, plain) in MANIFESTS {
        let plain: &Value = plain;
        let injected = decided(plain, None, &facts).object;
        let ejected = without_id(&injected);
        let mut group = criterion.benchmark_group(size);
        group.throughput(Throughput::Bytes(plain.to_string().len() as u64));
        group.bench_function("inject", |bench| bench.iter(|| decided(black_box(plain), None, &facts)));
        group.bench_function("keep", |bench| bench.iter(|| decided(black_box(plain), Some(&injected), &facts)));
        group.bench_function("eject", |bench| bench.iter(|| decided(black_box(&ejected), Some(&injected), &facts)));
        for (what, object, old) in [
            ("review inject", plain, None),
            ("review keep", plain, Some(&injected)),
            ("review eject", &ejected, Some(&injected)),
        ] {
            let body = manifests::review(object, old).to_string();
            group.bench_function(what, |bench| bench.iter(|| answered(black_box(body.as_bytes()), &facts)));
        }
        // What any program pays that reads the body into values.
        let body = manifests::review(plain, None).to_string();
        group.bench_function("parse only", |bench| {
            bench.iter(|| serde_json::from_slice::<Value>(black_box(body.as_bytes())).map(black_box));
        });
        group.finish();
    }
}

criterion_group!(benches, injection);
criterion_main!(benches);
