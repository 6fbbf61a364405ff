//! Elect: keep the live template, keep the arriving one, or inject afresh.
//!
//! Every write arrives as a mixture of what the user wrote and what was injected. So the arriving template and the live one
//! are ejected, and what is left of them is compared.

use std::borrow::Cow;

use leader_agent::{mode::Mode, names};
use serde_json::{Map, Value};

use super::{
    Account, Decision, Defaults, Election, Facts, ImageRequest, Outcome, Refusal, account,
    account::account_of,
    add::add,
    advice::{self, View},
    agents::elected,
    check,
    eject::{canonical, eject, is_touched},
    entry::{self, Entry, Found},
    handlers::{self, Resolved, Way},
    json::{annotation, containers, items, text},
    keep::{Live, is_as_for, is_current, is_intact},
    options::{self, Chosen, Options},
    parts, pull_secrets,
    record::{AccountMode, Injection, Record},
    root::Root,
    shape, stated,
};

/// The field of a record which says that pods without the agent ran the app when the template was made: an agent that finds no Lease then
/// takes it for lost.
const BORN_UNDER_TURNING_ON: &str = "bornUnderTurningOn";

/// An object that asks for an election of its own template.
pub(super) struct Case<'a> {
    pub object: &'a Value,
    pub old: Option<&'a Value>,
    pub root: Root,
    pub options: &'a Options,
    pub defaults: &'a Defaults,
    pub facts: &'a Facts,
}

/// Where a stored template comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    Afresh,
    KeptLive,
    KeptArriving,
}

/// What the live template did for this id.
#[derive(Clone, Copy)]
struct Before<'a> {
    /// It took part in the very election.
    is_live: bool,
    /// The account of its pods, which has what an election needs.
    granted: Option<&'a Account>,
}

impl Case<'_> {
    pub(super) fn elect(&self) -> Result<Decision, Refusal> {
        let Self { object, root, options, .. } = *self;
        let template = root.of_object(object);
        shape::check(template, root)?;
        if let Some(container) = self.wrapped_before() {
            let advice = advice::stays(&container);
            let options = options.in_container(container);
            let mut decision = Case { options: &options, ..*self }.elect()?;
            if let Decision::Done(outcome) = &mut decision
                && self.is_read()
                && outcome.election.as_ref().is_some_and(|election| election.injected_afresh)
            {
                outcome.warnings.push(advice);
            }
            return Ok(decision);
        }
        let live = self.old.and_then(|old| Live::of(old, root));
        let arriving = Record::of(template);
        let own = arriving.as_ref().ok().and_then(Option::as_ref);
        let plain = self.plain(own.or(live.as_ref().map(|live| &live.record)));
        check::annotations(object, &plain, root, options)?;

        let is_known = live.as_ref().is_some_and(|live| live.intact && live.record.id == options.id.as_str());
        let account_of_live =
            |live: &Live<'_>| Account::of(live.record.service_account, &live.record.id, &live.plain["spec"]);
        let granted = live.as_ref().filter(|_| is_known).map(account_of_live);
        let before = |is_live| Before { is_live, granted: granted.as_ref() };
        if let Some(live) = live.as_ref().filter(|live| live.intact && is_as_for(&live.record, options, &plain, root))
            && (plain == live.plain || canonical(&plain) == canonical(&live.plain))
        {
            let object = root.replaced(object, live.template.clone());
            let mut kept = self.outcome(object, &live.record, &live.plain, Made::KeptLive, before(is_known));
            kept.warnings = self.new_risks(&plain, Some(live).filter(|_| is_known));
            return Ok(Decision::Done(kept));
        }

        let chosen = options::container(options, &plain, root)?;
        let way = Way::new(&plain["spec"], options.port);
        check::refuse(object, &plain, chosen, way, options)?;
        options.check_timing(&plain["spec"], chosen.container)?;
        let intact = own.filter(|record| is_intact(template, record));
        let mut warnings = Vec::new();
        if own.is_none() && is_touched(template) {
            warnings.push(advice::without_record(arriving.as_ref().err()));
        }
        warnings.extend(self.new_risks(&plain, live.as_ref().filter(|_| is_known)));
        // Its pods run the app of any other container bare.
        let live_wraps = |container: &str| {
            let live = live.as_ref().filter(|_| is_known);
            live.is_some_and(|live| elected(live.record.mode, &live.record.container) == container)
        };

        // A record of its own, not the live one's: it was kept elsewhere (undo, export), and its template with it.
        let of_its_own = |record: &&Record| live.as_ref().is_none_or(|live| live.record != **record);
        if let Some(record) =
            intact.filter(of_its_own).filter(|record| is_current(template, record, options, &plain, chosen, way))
        {
            let live_before = live_wraps(elected(record.mode, &record.container));
            let mut kept = self.outcome(object.clone(), record, &plain, Made::KeptArriving, before(live_before));
            kept.warnings = warnings;
            return Ok(Decision::Done(kept));
        }

        let live_before = live_wraps(elected(options.mode, chosen.name));
        let live = live.as_ref().map(|live| &live.record);
        let previous = intact.or(live);
        let plain = entry::with_declared_args(&plain, template, object, own.or(live));
        let chosen = options::container(options, &plain, root)?;
        let account = account::mode(options, &plain["spec"], root == Root::Pod, previous, self.facts);
        let sibling = self.facts.sibling_record.as_deref().and_then(|text| Record::parse(text).ok());
        let records: Vec<&Record> = [own, live, sibling.as_ref()].into_iter().flatten().collect();
        let in_force = live.filter(|_| is_known);
        let entry = match entry::find(options, chosen, in_force, &records, self.facts.image.as_ref())? {
            Found::Entry(entry) => entry,
            Found::Ask { required } => {
                return Ok(Decision::NeedsImage(self.image_request(&plain, chosen, account, required)));
            }
        };
        warnings.extend(entry.warnings.iter().cloned());
        let image = text(chosen.container, "image").unwrap_or_default();
        let is_frozen = live.is_some_and(|live| is_known && live.knows(image).is_some());
        if options.mode != Mode::Observe
            && entry.is_from_image(options)
            && !entry::has_digest(image)
            && !is_frozen
            && self.is_read()
        {
            warnings.push(advice::frozen(chosen.name, image));
        }
        if account == AccountMode::Keep && options.account.is_none() && !is_known && self.is_read() {
            warnings.push(advice::kept_account(account_of(&plain["spec"]), options.id.as_str()));
        }
        let mut rest = previous.map(|record| record.rest.clone()).unwrap_or_default();
        let is_same = |live: &Record| {
            live.id == options.id.as_str() && elected(live.mode, &live.container) == elected(options.mode, chosen.name)
        };
        if root != Root::Pod && self.old.is_some() && !live.is_some_and(is_same) {
            rest.insert(BORN_UNDER_TURNING_ON.to_owned(), true.into());
        }
        let (injected, record) = inject(&plain, chosen, options, account, entry, rest, (self.defaults, self.facts))?;
        let object = root.replaced(object, injected);
        let mut afresh = self.outcome(object, &record, &plain, Made::Afresh, before(live_before));
        afresh.warnings = warnings;
        Ok(Decision::Done(afresh))
    }

    /// The container that was chosen before, where nobody says which one it is and another one now stands before it: by an earlier review
    /// of the same pod, which another webhook has put one of its own into since, or in the live template. Beside the pods of that one, in
    /// which its app runs on the leader only, pods in which another container is wrapped would all run it.
    fn wrapped_before(&self) -> Option<String> {
        if self.options.container.is_some() {
            return None;
        }
        let template = self.root.of_object(self.object);
        let stands =
            |wanted: &str| containers(template).iter().any(|container| text(container, "name") == Some(wanted));
        if annotation(template, options::DEFAULT_CONTAINER).is_some_and(stands) {
            return None;
        }
        let before = if self.root == Root::Pod { template } else { self.root.of_object(self.old?) };
        let record = Record::of(before).ok().flatten().filter(|record| is_intact(before, record))?;
        let is_first = containers(template).first().and_then(|first| text(first, "name")) == Some(&record.container);
        let was_named = record.options.contains_key(options::CONTAINER.trim_start_matches(names::PREFIX));
        let is_same = self.root == Root::Pod || record.id == self.options.id.as_str() && !was_named;
        (is_same && !is_first && stands(&record.container)).then_some(record.container)
    }

    /// What the user wants the template to be. `record` is the arriving one, or the live object's.
    fn plain(&self, record: Option<&Record>) -> Value {
        let template = self.root.of_object(self.object);
        let volumes = || items(&template["spec"], "volumes").iter().any(parts::is_volume);
        if !is_touched(template) && (record.is_none() || !volumes()) {
            // Replaced: all of it is the user's, also what looks as if it had been injected.
            return template.clone();
        }
        let before = self.old.and_then(|old| annotation(old, names::ID));
        let ids: Vec<&str> = [Some(self.options.id.as_str()), before].into_iter().flatten().collect();
        let asked_for: Cow<'_, Value> = handlers::without_released(template, self.object, self.old, record);
        let mut plain = eject(&asked_for, record, &ids);
        if let Some(record) = record {
            entry::keep_stated_args(&mut plain, template, self.object, record);
            release_annotations(&mut plain, self.root, self.object, self.old, record);
        }
        plain
    }

    /// Whether a person reads what is said. A controller that makes pods does not; the template that it makes them from was
    /// reviewed, and what happens to a single pod is logged with it.
    fn is_read(&self) -> bool {
        let owners = items(&self.object["metadata"], "ownerReferences");
        self.root != Root::Pod || !owners.iter().any(|owner| owner["controller"] == true)
    }

    fn new_risks(&self, plain: &Value, before: Option<&Live<'_>>) -> Vec<String> {
        if !self.is_read() {
            return Vec::new();
        }
        let now = View { object: self.object, template: plain, root: self.root };
        // In another mode other things are risky.
        let before = self.old.zip(before.filter(|live| live.record.mode == self.options.mode));
        let before = before.map(|(old, live)| View { object: old, template: &live.plain, root: self.root });
        advice::new_risks(&now, before.as_ref(), self.options, self.facts)
    }

    /// What has to be known about the image, and with whose credentials.
    fn image_request(&self, plain: &Value, chosen: Chosen<'_>, account: AccountMode, required: bool) -> ImageRequest {
        let spec = &plain["spec"];
        let secrets = items(spec, "imagePullSecrets").iter().filter_map(|secret| text(secret, "name"));
        let labels = spec["nodeSelector"].as_object().into_iter().flatten();
        ImageRequest {
            image: text(chosen.container, "image").unwrap_or_default().to_owned(),
            pull_secrets: secrets.map(str::to_owned).collect(),
            // A dedicated account has the pull secrets of `default`, once it is there.
            service_account: match Account::of(account, self.options.id.as_str(), spec) {
                Account::Dedicated(_) => account::DEFAULT.to_owned(),
                Account::Keep(name) => name,
            },
            node_selector: labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
            required,
        }
    }

    fn outcome(&self, object: Value, record: &Record, plain: &Value, made: Made, before: Before<'_>) -> Outcome {
        let id = &self.options.id;
        let account = Account::of(record.service_account, &record.id, &plain["spec"]);
        let action = match made {
            Made::Afresh => "injected",
            Made::KeptLive => "kept-live",
            Made::KeptArriving => "kept-arriving",
        };
        let audit = [("action", action), ("id", id.as_str()), ("container", &record.container)];
        Outcome {
            object,
            election: Some(Election {
                id: id.clone(),
                injected_afresh: made == Made::Afresh,
                container: elected(record.mode, &record.container).to_owned(),
                live_before: before.is_live,
                granted_before: before.granted == Some(&account),
                account,
            }),
            warnings: Vec::new(),
            audit: audit.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        }
    }
}

/// Injects into a user's template, and reads the record back that was written.
pub(super) fn inject(
    plain: &Value,
    chosen: Chosen<'_>,
    options: &Options,
    account: AccountMode,
    entry: Entry,
    rest: Map<String, Value>,
    (defaults, facts): (&Defaults, &Facts),
) -> Result<(Value, Record), Refusal> {
    let handlers = Resolved::new(&plain["spec"], chosen, options.mode)?;
    let injection = Injection {
        id: options.id.clone(),
        container: chosen.name.to_owned(),
        mode: options.mode,
        status_file: options.status_file.clone(),
        prefer: options.prefer.clone(),
        unhealthy_step_down: options.unhealthy_step_down.clone(),
        follow: options.follow.clone(),
        lease_duration: options.lease_duration.clone(),
        stop_grace: options.stop_grace.clone(),
        account,
        entry,
        agent_image: defaults.agent_image.clone(),
        port: Way::new(&plain["spec"], options.port).port(),
        probes: handlers.probes,
        hooks: handlers.hooks,
        termination_grace: handlers.termination_grace,
        pull_secrets: pull_secrets::wanted(&plain["spec"], chosen.root, account, defaults, facts)?,
        options: options.written.clone(),
        rest,
    };
    let injected = add(plain, chosen, injection)?;
    // It was written just now.
    match Record::of(&injected).ok().flatten() {
        Some(record) => Ok((injected, record)),
        None => Err(Refusal::Malformed { path: chosen.root.metadata().to_owned(), expected: "a map" }),
    }
}

/// Takes annotations of the template off again that ejecting gave back, where nobody asks for them any more.
pub(super) fn release_annotations(plain: &mut Value, root: Root, object: &Value, old: Option<&Value>, record: &Record) {
    let annotations = plain.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    let (Some(annotations), Root::Template) = (annotations, root) else { return };
    for (_, key, _) in &record.original.annotations {
        if annotation(root.of_object(object), key).is_none() && stated::is_released(object, old, key) {
            annotations.shift_remove(key);
        }
    }
}
