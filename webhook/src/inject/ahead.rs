//! Ahead of the pods: an election that a pod template asks for.
//!
//! The template stays as it is, and each pod is injected when it is created. That is far from the person who writes the
//! template, so what would be refused at the pods is refused here, and what is risky is said here.

use serde_json::Value;

use super::{
    Account, Defaults, Election, Facts, ImageAnswer, ImageFacts, Outcome, Refusal,
    account::{self, account_of},
    advice::{self, View},
    agents::{elected, elected_container},
    check,
    elect::inject,
    entry::{self, Found},
    handlers::Way,
    options::{self, Asked, Holder},
    record::AccountMode,
    root::Root,
    shape,
};

/// Judges an object whose pod template has annotations of ours, and completes the `outcome` that leaves it as it is.
pub(super) fn ahead(
    object: &Value,
    old: Option<&Value>,
    root: Root,
    defaults: &Defaults,
    facts: &Facts,
    mut outcome: Outcome,
) -> Result<Outcome, Refusal> {
    let template = root.of_object(object);
    shape::check(template, root)?;
    let holder = Holder { object: template, kind: "pod template", path: root.metadata() };
    let options = match options::read(&holder, &template["spec"])? {
        Asked::Election(options) => options,
        Asked::Nothing(left) => {
            outcome.warnings.extend(advice::left_behind(&left));
            return Ok(outcome);
        }
    };
    let chosen = options::container(&options, template, root)?;
    check::refuse(object, template, chosen, Way::new(&template["spec"], options.port), &options)?;
    options.check_timing(&template["spec"], chosen.container)?;
    let account = account::mode(&options, &template["spec"], true, None, facts);
    // The pods ask for the image: whatever it says, the rest is what it will be for them.
    let image = ImageFacts { entrypoint: vec!["entrypoint".to_owned()], ..ImageFacts::default() };
    let answer = ImageAnswer::Found(image);
    if let Found::Entry(entry) = entry::find(&options, chosen, None, &[], Some(&answer))? {
        inject(template, chosen, &options, account, entry, serde_json::Map::new(), (defaults, facts))?;
    }

    let wrapped_before = old.and_then(|old| elected_container(root.of_object(old), options.id.as_str()));
    let before = old.filter(|_| wrapped_before.is_some());
    let now = View { object, template, root };
    let known = before.map(|old| View { object: old, template: root.of_object(old), root });
    outcome.warnings.extend(advice::new_risks(&now, known.as_ref(), &options, facts));
    if before.is_none() {
        outcome.warnings.push(advice::in_pods(root.metadata()));
        if account == AccountMode::Keep && options.account.is_none() {
            outcome.warnings.push(advice::kept_account(account_of(&template["spec"]), options.id.as_str()));
        }
    }
    let audit = [("action", "left-to-pods"), ("id", options.id.as_str()), ("container", chosen.name)];
    outcome.audit.extend(audit.map(|(name, value)| (name.to_owned(), value.to_owned())));
    outcome.election = Some(Election {
        account: Account::of(account, options.id.as_str(), &template["spec"]),
        id: options.id,
        injected_afresh: false,
        live_before: wrapped_before.as_deref() == Some(elected(options.mode, chosen.name)),
        // Which account pods run under is decided for each of them.
        granted_before: false,
        container: elected(options.mode, chosen.name).to_owned(),
    });
    Ok(outcome)
}
