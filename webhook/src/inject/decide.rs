//! The decision: keep the live template, keep the arriving one, inject afresh, or eject.
//!
//! Every write arrives as a mixture of what the user wrote and what was injected. So the arriving template and the live one
//! are ejected, and what is left of them is compared.

use std::collections::BTreeMap;

use leader_agent::names;
use serde_json::Value;

use super::{
    Account, Decision, Defaults, Election, Facts, ImageRequest, Outcome, Refusal,
    add::add,
    advice, check,
    eject::{canonical, eject, has_traces},
    entry::{self, Entry, Found},
    handlers::{self, Resolved, Way},
    json::{annotation, containers, items, text, texts},
    options::{self, Asked, Chosen, Options},
    parts,
    record::{AccountMode, Injection, Record, dedicated_name},
    shape,
};

/// Decides about a workload: an object with `spec.template`.
///
/// `object` is what arrived, `old` the live object of an update; both with `apiVersion` and `kind`. An object without
/// `leader.io/id` is ejected if it was injected and unchanged otherwise; our annotations on its template are refused. Other
/// objects are unchanged, and refused with that annotation on them or on their template.
pub fn workload(object: &Value, old: Option<&Value>, defaults: &Defaults, facts: &Facts) -> Result<Decision, Refusal> {
    let kind = text(object, "kind").unwrap_or("object without a kind");
    let version = text(object, "apiVersion");
    let refused = || Refusal::Kind {
        kind: match version {
            Some(version) => format!("{kind} ({version})"),
            None => format!("{kind} without an apiVersion"),
        },
    };
    if !matches!(kind, "Deployment" | "StatefulSet" | "DaemonSet") {
        let elected = [object, template_of(object)].into_iter().any(|holder| annotation(holder, names::ID).is_some());
        return if elected { Err(refused()) } else { Ok(Decision::Done(unchanged(object))) };
    }
    match options::read(object, kind)? {
        Asked::Nothing(left) => {
            let outcome = turned_off(object, old, &left);
            // Its pods would ask for what nobody gives them.
            check::annotations(template_of(&outcome.object))?;
            Ok(Decision::Done(outcome))
        }
        Asked::Election(_) if (kind, version) != ("Deployment", Some("apps/v1")) => Err(refused()),
        Asked::Election(options) => elect(object, old, &options, defaults, facts),
    }
}

fn unchanged(object: &Value) -> Outcome {
    Outcome { object: object.clone(), election: None, warnings: Vec::new(), audit: BTreeMap::new() }
}

fn template_of(object: &Value) -> &Value {
    &object["spec"]["template"]
}

fn with_template(object: &Value, template: Value) -> Value {
    let mut object = object.clone();
    if let Some(place) = object.pointer_mut("/spec/template") {
        *place = template;
    }
    object
}

/// Something of an injection, or of a record, is in the template.
fn is_touched(template: &Value) -> bool {
    annotation(template, names::INJECTED).is_some() || has_traces(template)
}

/// The id is not on the workload.
fn turned_off(object: &Value, old: Option<&Value>, left: &[String]) -> Outcome {
    let template = template_of(object);
    let mut outcome = unchanged(object);
    let live = old.and_then(|old| Record::of(template_of(old)).ok().flatten());
    let record = Record::of(template).ok().flatten().or(live);
    let annotated = old.and_then(|old| annotation(old, names::ID));
    let is_injected = is_touched(template);
    // A template that brings nothing of ours along (replace, undo) turns the election off as well.
    if is_injected || annotated.is_some() || old.is_some_and(|old| is_touched(template_of(old))) {
        let id = record.as_ref().map(|record| record.id.as_str()).or(annotated);
        outcome.warnings.push(advice::turned_off(object, id));
        let action = if is_injected { "ejected" } else { "turned-off" };
        outcome.audit.insert("action".to_owned(), action.to_owned());
        outcome.audit.extend(id.map(|id| ("id".to_owned(), id.to_owned())));
    }
    if is_injected {
        let label =
            template.pointer("/metadata/labels").and_then(|labels| labels.get(names::ID)).and_then(Value::as_str);
        let ids: Vec<&str> = annotated.into_iter().chain(label).collect();
        let asked_for = handlers::without_released(template, object, old, record.as_ref());
        outcome.object = with_template(object, eject(&asked_for, record.as_ref(), &ids));
    }
    outcome.warnings.extend(advice::left_behind(left));
    outcome
}

/// The live object's template, where it is injected.
struct Live<'a> {
    template: &'a Value,
    record: Record,
    plain: Value,
    intact: bool,
}

impl<'a> Live<'a> {
    fn of(old: &'a Value) -> Option<Self> {
        let template = template_of(old);
        let record = Record::of(template).ok().flatten()?;
        shape::check(template).ok()?;
        let plain = eject(template, Some(&record), &[]);
        Some(Self { template, intact: is_intact(template, &record), record, plain })
    }
}

fn elect(
    object: &Value,
    old: Option<&Value>,
    options: &Options,
    defaults: &Defaults,
    facts: &Facts,
) -> Result<Decision, Refusal> {
    let template = template_of(object);
    shape::check(template)?;
    let live = old.and_then(Live::of);
    let arriving = Record::of(template);
    let own = arriving.as_ref().ok().and_then(Option::as_ref);
    let record = own.or(live.as_ref().map(|live| &live.record));
    let plain = if record.is_some() || is_touched(template) {
        let ids: Vec<&str> =
            [Some(options.id.as_str()), old.and_then(|old| annotation(old, names::ID))].into_iter().flatten().collect();
        eject(&handlers::without_released(template, object, old, record), record, &ids)
    } else {
        template.clone()
    };

    let live_before = live.as_ref().is_some_and(|live| live.intact && live.record.id == options.id.as_str());
    let new_risks = || {
        let now = advice::View { object, template: &plain };
        let before = old.zip(live.as_ref()).map(|(old, live)| advice::View { object: old, template: &live.plain });
        advice::new_risks(&now, before.filter(|_| live_before).as_ref(), options)
    };
    let same = |record: &Record| record.id == options.id.as_str() && record.options == options.written;
    if let Some(live) = live.as_ref().filter(|live| live.intact && same(&live.record))
        && canonical(&plain) == canonical(&live.plain)
    {
        let object = with_template(object, live.template.clone());
        let mut kept = outcome(object, options, &live.record, &live.plain, Made::KeptLive, live_before);
        kept.warnings = new_risks();
        return Ok(Decision::Done(kept));
    }

    let chosen = options::container(options, &plain)?;
    let way = Way::new(&plain["spec"], None);
    check::refuse(object, &plain, chosen, way)?;
    options.check_timing(&plain["spec"], chosen.container)?;
    let intact = own.filter(|record| is_intact(template, record));
    let mut warnings = Vec::new();
    if intact.is_none() && is_touched(template) && own.is_none() {
        warnings.push(advice::without_record(arriving.as_ref().err()));
    }
    warnings.extend(new_risks());

    // A record of its own, not the live one's: it was kept elsewhere (undo, export), and its template with it.
    let of_its_own = |record: &&Record| live.as_ref().is_none_or(|live| live.record != **record);
    if let Some(record) = intact
        .filter(of_its_own)
        .filter(|record| same(record) && obeys(record, options) && fits(template, record, chosen))
        .filter(|record| handlers::fit(record, &plain["spec"], chosen, way))
        .filter(|record| entry::agrees(record, options, chosen))
    {
        let mut kept = outcome(object.clone(), options, record, &plain, Made::KeptArriving, live_before);
        kept.warnings = warnings;
        return Ok(Decision::Done(kept));
    }

    let previous = intact.or(live.as_ref().map(|live| &live.record));
    let sibling = facts.sibling_record.as_deref().and_then(|text| Record::parse(text).ok());
    let records: Vec<&Record> =
        [own, live.as_ref().map(|live| &live.record), sibling.as_ref()].into_iter().flatten().collect();
    let account = account_mode(options, &plain, previous, facts);
    let entry = match entry::find(options, chosen, &records, facts.image.as_ref())? {
        Found::Entry(entry) => entry,
        Found::Ask { required } => {
            return Ok(Decision::NeedsImage(image_request(options, chosen, &plain, account, required)));
        }
    };
    warnings.extend(entry.warnings.iter().cloned());
    let image = text(chosen.container, "image").unwrap_or_default();
    let is_known = live.as_ref().is_some_and(|live| live_before && live.record.knows(image).is_some());
    if entry.is_from_image(options) && !entry::has_digest(image) && !is_known {
        warnings.push(advice::frozen(chosen.name, image));
    }
    let resolved = Resolved::new(&plain["spec"], chosen)?;
    let injection = injection(options, chosen, account, entry, way, resolved, previous, defaults);
    if injection.account == AccountMode::Keep && options.account.is_none() && !live_before {
        warnings.push(advice::kept_account(account_of(&plain), options.id.as_str()));
    }
    let injected = add(&plain, chosen, injection)?;
    // It was written just now.
    let Some(record) = Record::of(&injected).ok().flatten() else {
        return Err(Refusal::Malformed { path: "spec.template".to_owned(), expected: "a map" });
    };
    let mut afresh = outcome(with_template(object, injected), options, &record, &plain, Made::Afresh, live_before);
    afresh.warnings = warnings;
    Ok(Decision::Done(afresh))
}

/// What an injection into this plain template shall be made of.
fn injection(
    options: &Options,
    chosen: Chosen<'_>,
    account: AccountMode,
    entry: Entry,
    way: Way,
    handlers: Resolved,
    previous: Option<&Record>,
    defaults: &Defaults,
) -> Injection {
    Injection {
        id: options.id.clone(),
        container: chosen.name.to_owned(),
        lease_duration: options.lease_duration.clone(),
        stop_grace: options.stop_grace.clone(),
        account,
        entry,
        agent_image: defaults.agent_image.clone(),
        port: way.port(),
        probes: handlers.probes,
        hooks: handlers.hooks,
        termination_grace: handlers.termination_grace,
        options: options.written.clone(),
        rest: previous.map(|record| record.rest.clone()).unwrap_or_default(),
    }
}

/// Whose account the pods shall use.
fn account_mode(options: &Options, plain: &Value, previous: Option<&Record>, facts: &Facts) -> AccountMode {
    let by_default = || match previous {
        // Decided once for an id: a binding of `default` that was made later starts no other account.
        Some(record) if record.id == options.id.as_str() && record.decided_account() => record.service_account,
        _ if facts.default_account_in_use => AccountMode::Keep,
        _ => AccountMode::Dedicated,
    };
    match (options.account, account_of(plain)) {
        (Some(asked), _) => asked,
        (None, Some(_)) => AccountMode::Keep,
        (None, None) => by_default(),
    }
}

/// What has to be known about the image, and with whose credentials.
fn image_request(
    options: &Options,
    chosen: Chosen<'_>,
    plain: &Value,
    account: AccountMode,
    required: bool,
) -> ImageRequest {
    let spec = &plain["spec"];
    let service_account = match account {
        AccountMode::Dedicated => dedicated_name(options.id.as_str()),
        AccountMode::Keep => account_of(plain).unwrap_or("default").to_owned(),
    };
    let labels = spec["nodeSelector"].as_object().into_iter().flatten();
    ImageRequest {
        image: text(chosen.container, "image").unwrap_or_default().to_owned(),
        pull_secrets: items(spec, "imagePullSecrets")
            .iter()
            .filter_map(|secret| text(secret, "name"))
            .map(str::to_owned)
            .collect(),
        service_account,
        node_selector: labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
        required,
    }
}

/// The account that a user's template names.
fn account_of(plain: &Value) -> Option<&str> {
    ["serviceAccountName", "serviceAccount"].into_iter().find_map(|key| text(&plain["spec"], key))
}

/// Whether a template is injected as its record says. Judged by the parts that every version has, and by what makes them
/// ours: a newer version must not call an older one's template broken and so start a rollout.
fn is_intact(template: &Value, record: &Record) -> bool {
    let spec = &template["spec"];
    let has = |parent: &Value, key: &str, count: usize, ours: &dyn Fn(&Value) -> bool| {
        items(parent, key).iter().filter(|item| ours(item)).count() == count
    };
    let wrapped = containers(template).iter().find(|container| text(container, "name") == Some(&record.container));
    let account = record.dedicated_account();
    let address = handlers::needs_address(&record.probes, &record.hooks);
    has(spec, "initContainers", 1, &parts::is_init_container)
        && items(spec, "initContainers").iter().filter(|item| parts::is_init_container(item)).all(parts::installs)
        && has(spec, "volumes", parts::volumes().len(), &parts::is_volume)
        && account.is_none_or(|account| account_of(template) == Some(&account))
        && template["metadata"]["labels"][names::ID] == record.id.as_str()
        && wrapped.is_some_and(|container| {
            let is_variable = |item: &Value| parts::is_variable(item, &[&record.container]);
            texts(container, "command") == parts::wrap(&record.command)
                && record.args.as_ref().is_none_or(|args| texts(container, "args") == *args)
                && has(container, "volumeMounts", parts::mounts().len(), &parts::is_mount)
                && has(container, "env", names::env::INJECTED.len() + usize::from(address), &is_variable)
                && handlers::is_routed(container, record)
        })
}

/// Whether a record that nobody has reviewed says what the options ask for: the agent goes by these fields, not by the options
/// that stand beside them.
fn obeys(record: &Record, options: &Options) -> bool {
    record.lease_duration == options.lease_duration
        && record.stop_grace == options.stop_grace
        && options.account.is_none_or(|asked| asked == record.service_account)
}

/// Whether an intact template still fits what stands around the injected parts: container, image and resources.
fn fits(template: &Value, record: &Record, chosen: Chosen<'_>) -> bool {
    let init = items(&template["spec"], "initContainers").iter().find(|item| parts::is_init_container(item));
    record.container == chosen.name
        && record.image.as_deref() == text(chosen.container, "image")
        && init.is_some_and(|init| parts::resources(init) == parts::resources(chosen.container))
}

/// Where a stored template comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    Afresh,
    KeptLive,
    KeptArriving,
}

fn outcome(object: Value, options: &Options, record: &Record, plain: &Value, made: Made, live_before: bool) -> Outcome {
    let account = match record.service_account {
        AccountMode::Dedicated => Account::Dedicated(dedicated_name(&record.id)),
        AccountMode::Keep => Account::Keep(account_of(plain).unwrap_or("default").to_owned()),
    };
    let action = match made {
        Made::Afresh => "injected",
        Made::KeptLive => "kept-live",
        Made::KeptArriving => "kept-arriving",
    };
    let audit = [("action", action), ("id", options.id.as_str()), ("container", &record.container)];
    Outcome {
        object,
        election: Some(Election {
            id: options.id.clone(),
            account,
            injected_afresh: made == Made::Afresh,
            live_before,
        }),
        warnings: Vec::new(),
        audit: audit.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    }
}
