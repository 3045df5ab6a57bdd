//! All settings as the registry has them, still closed, and which of them a component gets.
//!
//! The rule: a component is given what its definition names, its own setting before the one for all; and each setting of
//! its own that the definition does not name, as a variable of that name. Opens nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::crdt::{Dot, Register, Row, Sibling, Version};
use crate::id::ComponentName;
use crate::model::Component;
use crate::model::cfg::{CfgKey, CfgName, CfgUse};
use crate::time::Wall;

/// One setting. Never without a value: its winner is no delete.
#[derive(Debug, Clone)]
pub(crate) struct Setting(Register);

impl Setting {
    /// None if it is deleted.
    pub(crate) fn new(register: &Register) -> Option<Self> {
        register.winner().map(|_| Self(register.clone()))
    }

    pub(crate) fn row(&self) -> Option<&Row> {
        self.0.winner()
    }

    pub(crate) fn version(&self) -> Version {
        self.0.version()
    }

    pub(crate) fn updated(&self) -> Wall {
        self.0.latest().wall()
    }

    /// The write that is in effect. It tells values apart without telling anything of them.
    fn dot(&self) -> Option<Dot> {
        self.0.siblings().first().map(|winner| winner.dot)
    }

    /// Writes at the same moment that wait for somebody to settle them.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Sibling> {
        let is_conflict = self.0.is_conflict();
        self.0.siblings().iter().skip(1).filter(move |other| is_conflict && other.row.as_ref() != self.row())
    }
}

/// All of them, and which components name which.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    global: BTreeMap<CfgName, Setting>,
    own: BTreeMap<ComponentName, BTreeMap<CfgName, Setting>>,
    users: BTreeMap<CfgName, BTreeSet<ComponentName>>,
}

/// What a component gets of one setting.
#[derive(Debug)]
pub(crate) struct Resolved<'a> {
    pub(crate) to: CfgUse,
    /// Where it was found, or is looked for.
    pub(crate) key: CfgKey,
    pub(crate) setting: Option<&'a Setting>,
}

impl Settings {
    pub(crate) fn set(&mut self, key: CfgKey, setting: Option<Setting>) {
        match (key.component, setting) {
            (None, Some(setting)) => drop(self.global.insert(key.name, setting)),
            (None, None) => drop(self.global.remove(&key.name)),
            (Some(component), Some(setting)) => {
                self.own.entry(component).or_default().insert(key.name, setting);
            }
            (Some(component), None) => {
                if let Some(own) = self.own.get_mut(&component) {
                    own.remove(&key.name);
                    if own.is_empty() {
                        self.own.remove(&component);
                    }
                }
            }
        }
    }

    pub(crate) fn get(&self, key: &CfgKey) -> Option<&Setting> {
        match &key.component {
            None => self.global.get(&key.name),
            Some(component) => self.own.get(component)?.get(&key.name),
        }
    }

    /// Those for all, then those of each component, in the order of names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (CfgKey, &Setting)> {
        let key = |component: Option<&ComponentName>, name: &CfgName| CfgKey {
            component: component.cloned(),
            name: name.clone(),
        };
        let global = self.global.iter().map(move |(name, setting)| (key(None, name), setting));
        let own = self.own.iter().flat_map(move |(component, own)| {
            own.iter().map(move |(name, setting)| (key(Some(component), name), setting))
        });
        global.chain(own)
    }

    /// The names of the settings of one component alone.
    pub(crate) fn own(&self, component: &ComponentName) -> impl Iterator<Item = &CfgName> {
        self.own.get(component).into_iter().flat_map(BTreeMap::keys)
    }

    /// A component names other settings from now on than it did.
    pub(crate) fn set_uses(&mut self, component: &ComponentName, before: &[CfgName], after: &[CfgName]) {
        for name in before {
            if let Some(users) = self.users.get_mut(name) {
                users.remove(component);
                if users.is_empty() {
                    self.users.remove(name);
                }
            }
        }
        for name in after {
            self.users.entry(name.clone()).or_default().insert(component.clone());
        }
    }

    /// The components whose definitions name a setting, whether or not they have one of their own.
    pub(crate) fn named_by(&self, name: &CfgName) -> impl Iterator<Item = &ComponentName> {
        self.users.get(name).into_iter().flatten()
    }

    /// The components that are given this very setting, or would be if it were there.
    pub(crate) fn users<'a>(&'a self, key: &'a CfgKey) -> impl Iterator<Item = &'a ComponentName> {
        let hidden = |component: &&ComponentName| self.own(component).any(|name| *name == key.name);
        let named = self.named_by(&key.name).filter(move |component| key.component.is_none() && !hidden(component));
        named.chain(&key.component)
    }

    /// The components that could not start without this setting: they name it, and there is no other of its name that
    /// they would get.
    pub(crate) fn needed_by(&self, key: &CfgKey) -> Vec<ComponentName> {
        match &key.component {
            None => self.users(key).cloned().collect(),
            Some(_) if self.global.contains_key(&key.name) => Vec::new(),
            Some(own) => self.named_by(&key.name).filter(|component| *component == own).cloned().collect(),
        }
    }

    /// What a component gets.
    pub(crate) fn resolve(&self, component: &Component) -> Vec<Resolved<'_>> {
        let own = |name: &CfgName| CfgKey { component: Some(component.name.clone()), name: name.clone() };
        let mut all: Vec<Resolved<'_>> = component.cfg.iter().map(|to| self.look_up(to, own(&to.name))).collect();
        for name in self.own(&component.name) {
            if !component.cfg.iter().any(|named| named.name == *name) {
                all.push(self.look_up(&CfgUse::plain(name.clone()), own(name)));
            }
        }
        all
    }

    fn look_up(&self, to: &CfgUse, own: CfgKey) -> Resolved<'_> {
        let to = to.clone();
        match self.get(&own) {
            Some(setting) => Resolved { to, key: own, setting: Some(setting) },
            None => {
                let key = CfgKey { component: None, name: own.name };
                let setting = self.get(&key);
                Resolved { to, key, setting }
            }
        }
    }

    /// Covers what a component gets, and changes whenever any of it is put anew; none if it gets nothing. Holds nothing of
    /// any value.
    pub(crate) fn mark(&self, component: &Component) -> Option<String> {
        let resolved = self.resolve(component);
        let marks = resolved.iter().map(|one| {
            let dot = one.setting.and_then(Setting::dot);
            let dot = dot.map_or_else(|| "missing".to_owned(), |dot| format!("{:x}@{}", dot.at.0, dot.by));
            format!("{:?}={dot}", one.to)
        });
        (!resolved.is_empty()).then(|| marks.collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crdt::Hlc;
    use crate::daemon::seal;
    use crate::id::NodeId;

    fn key(text: &str) -> CfgKey {
        CfgKey::from_row_name(text).expect("a key")
    }

    fn setting(at: u64) -> Option<Setting> {
        let dot = Dot { at: Hlc(at), by: NodeId(1) };
        Setting::new(&Register::write(None, dot, Some(seal::plain(b"same"))))
    }

    fn component(name: &str, cfg: serde_json::Value) -> Component {
        let doc = json!({"image": "x", "cfg": cfg});
        Component::parse(&name.parse().expect("a name"), &doc).expect("a component")
    }

    fn settings(rows: &[&str]) -> Settings {
        let mut settings = Settings::default();
        rows.iter().for_each(|row| settings.set(key(row), setting(1)));
        settings
    }

    fn found(settings: &Settings, component: &Component) -> Vec<String> {
        let resolved = settings.resolve(component);
        resolved.iter().map(|one| format!("{}{}", one.key.row_name(), one.setting.map_or("?", |_| ""))).collect()
    }

    fn names(component: &Component) -> Vec<CfgName> {
        component.cfg.iter().map(|one| one.name.clone()).collect()
    }

    #[test]
    fn a_component_gets_what_it_names_and_its_own_and_its_own_hides_that_for_all() {
        let settings = settings(&["A", "B", "C", "api/B", "api/D", "web/E"]);
        assert_eq!(found(&settings, &component("api", json!(["A", "B", "X"]))), ["A", "api/B", "X?", "api/D"]);
        assert_eq!(found(&settings, &component("web", json!([]))), ["web/E"]);
        assert_eq!(found(&settings, &component("other", json!([]))), Vec::<String>::new());
    }

    #[test]
    fn the_mark_changes_with_each_put_of_what_is_used_and_with_nothing_else() {
        let mut settings = settings(&["A", "B"]);
        let api = component("api", json!(["A"]));
        let before = settings.mark(&api);
        settings.set(key("B"), setting(2));
        settings.set(key("web/A"), setting(2));
        assert_eq!(settings.mark(&api), before);
        for (change, at) in [("A", Some(2)), ("api/A", Some(3)), ("api/Z", Some(3)), ("api/A", None), ("A", None)] {
            let before = settings.mark(&api);
            settings.set(key(change), at.and_then(setting));
            assert_ne!(settings.mark(&api), before, "{change} {at:?}");
        }
        assert!(!settings.mark(&api).expect("a mark").contains("same"));
        assert_eq!(settings.mark(&component("other", json!([]))), None);
        let renamed = component("api", json!(["A=B"]));
        assert_ne!(settings.mark(&renamed), settings.mark(&api));
    }

    #[test]
    fn users_follow_the_definitions_and_those_with_a_setting_of_their_own_do_not_count() {
        let mut settings = settings(&["A", "api/A"]);
        let (api, web) = (component("api", json!(["A"])), component("web", json!(["A", "B"])));
        for one in [&api, &web] {
            settings.set_uses(&one.name, &[], &names(one));
        }
        let users = |settings: &Settings, row: &str| {
            settings.users(&key(row)).map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            (users(&settings, "A"), users(&settings, "api/A"), users(&settings, "B")),
            ("web".into(), "api".into(), "web".into())
        );
        let needed = |settings: &Settings, row: &str| settings.needed_by(&key(row)).len();
        assert_eq!((needed(&settings, "A"), needed(&settings, "api/A")), (1, 0));
        settings.set(key("A"), None);
        assert_eq!(needed(&settings, "api/A"), 1);
        settings.set_uses(&web.name, &names(&web), &[]);
        assert_eq!((users(&settings, "B"), needed(&settings, "A")), (String::new(), 0));
    }
}
