//! Keep: when an injected template is what it should be, so that nothing has to be changed in it.

use leader_agent::{mode::Mode, names};
use serde_json::Value;

use super::{
    account::account_of,
    eject::eject,
    entry, follow,
    handlers::{self, Way},
    json::{containers, items, text, texts},
    observer,
    options::{self, Chosen, Options},
    parts, pull_secrets,
    record::Record,
    root::Root,
    shape, status,
};

/// The live object's template, where it is injected.
pub(super) struct Live<'a> {
    pub template: &'a Value,
    pub record: Record,
    /// What its user wrote.
    pub plain: Value,
    pub intact: bool,
}

impl<'a> Live<'a> {
    pub(super) fn of(old: &'a Value, root: Root) -> Option<Self> {
        let template = root.of_object(old);
        let record = Record::of(template).ok().flatten()?;
        shape::check(template, root).ok()?;
        let plain = eject(template, Some(&record), &[]);
        Some(Self { template, intact: is_intact(template, &record), record, plain })
    }
}

/// Whether a template is injected as its record says. Judged by the parts that every version has, and by what makes them
/// ours: a newer version must not call an older one's template broken and so start a rollout.
pub(super) fn is_intact(template: &Value, record: &Record) -> bool {
    let spec = &template["spec"];
    let has = |parent: &Value, key: &str, count: usize, ours: &dyn Fn(&Value) -> bool| {
        items(parent, key).iter().filter(|item| ours(item)).count() == count
    };
    let wrapped = containers(template).iter().find(|container| text(container, "name") == Some(&record.container));
    let account = record.dedicated_account();
    let address = handlers::needs_address(&record.probes, &record.hooks);
    let does_its_part: fn(&Value) -> bool =
        if record.mode == Mode::Observe { observer::observes } else { parts::installs };
    let status_folder = record.status_file.as_deref().map(status::folder).filter(|_| record.status_volume);
    let is_status_mount = |item: &Value| {
        item["name"] == status::VOLUME && status_folder.is_some_and(|folder| item["mountPath"] == folder)
    };
    has(spec, "initContainers", 1, &parts::is_init_container)
        && items(spec, "initContainers").iter().filter(|item| parts::is_init_container(item)).all(does_its_part)
        && has(spec, "volumes", record.volumes().len(), &parts::is_volume)
        && account.is_none_or(|account| account_of(spec) == Some(&account))
        && pull_secrets::are_there(spec, record)
        && follow::are_wrapped(template, record)
        && template["metadata"]["labels"][names::ID] == record.id.as_str()
        && wrapped.is_some_and(|container| {
            has(container, "volumeMounts", usize::from(status_folder.is_some()), &is_status_mount)
                && handlers::is_routed(container, record)
        })
        && (record.mode == Mode::Observe
            || wrapped.is_some_and(|container| {
                let is_variable = |item: &Value| parts::is_variable(item, &[&record.container]);
                texts(container, "command") == parts::wrap(&record.command)
                    && record.args.as_ref().is_none_or(|args| texts(container, "args") == *args)
                    && has(container, "volumeMounts", parts::mounts().len(), &parts::is_agents_mount)
                    && has(container, "env", parts::variables(address, record.prefer.is_some()).count(), &is_variable)
            }))
}

/// Whether a record was made for this id and these options.
pub(super) fn is_for(record: &Record, options: &Options) -> bool {
    record.id == options.id.as_str() && record.options == options.written
}

/// Whether a reviewed record was made for this id and for what these options come to: naming the container that is wrapped, or
/// the account that injection had decided for, changes nothing in the pods. `plain` is the template of both.
pub(super) fn is_as_for(record: &Record, options: &Options, plain: &Value, root: Root) -> bool {
    let key = |option: &str| option.trim_start_matches(names::PREFIX).to_owned();
    let (container, account) = (key(options::CONTAINER), key(options::SERVICE_ACCOUNT));
    let mut written = options.written.clone();
    let mut recorded = record.options.clone();
    if options::container(options, plain, root).is_ok_and(|chosen| chosen.name == record.container) {
        written.remove(&container);
        recorded.remove(&container);
    }
    // Not the other way round: without the option it may be decided otherwise.
    if !recorded.contains_key(&account) && options.account == Some(record.service_account) {
        written.remove(&account);
    }
    is_for(record, options) || record.id == options.id.as_str() && written == recorded
}

/// Whether an intact template that was injected elsewhere (undo, export) is what injection would make of `chosen` now, but for
/// what a newer version does differently. Nobody has reviewed its record, by which the agent goes.
pub(super) fn is_current(
    template: &Value,
    record: &Record,
    options: &Options,
    plain: &Value,
    chosen: Chosen<'_>,
    way: Way,
) -> bool {
    is_for(record, options)
        && obeys(record, options)
        && fits(template, record, chosen)
        && handlers::fit(record, &plain["spec"], chosen, way)
        && follow::fit(record, plain)
        && (options.mode == Mode::Observe || entry::agrees(record, options, chosen))
}

/// Whether a record that nobody has reviewed says what the options ask for: the agent goes by these fields, not by the options
/// that stand beside them.
fn obeys(record: &Record, options: &Options) -> bool {
    record.lease_duration == options.lease_duration
        && record.stop_grace == options.stop_grace
        && record.mode == options.mode
        && record.status_file == options.status_file
        && record.prefer == options.prefer
        && record.unhealthy_step_down == options.unhealthy_step_down
        && record.follow == options.follow
        && options.account.is_none_or(|asked| asked == record.service_account)
}

/// Whether an intact template still fits what stands around the injected parts: container, image and resources.
fn fits(template: &Value, record: &Record, chosen: Chosen<'_>) -> bool {
    let init = items(&template["spec"], "initContainers").iter().find(|item| parts::is_init_container(item));
    record.container == chosen.name
        && record.image.as_deref() == text(chosen.container, "image")
        && init.is_some_and(|init| match record.mode {
            Mode::Observe => Value::from(parts::resources(init)) == observer::resources(chosen.container),
            Mode::Run | Mode::Ready => parts::resources(init) == parts::resources(chosen.container),
        })
}
