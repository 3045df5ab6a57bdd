//! What the admin API can do with settings. A secret is sealed here, before anything else sees it; nothing here opens one.

use bytes::Bytes;

use super::super::catalog::{Definitions, Setting};
use super::super::registrar::Edit;
use super::super::seal;
use super::{Desk, answer, expectation, sibling};
use crate::admin::api::{ApiError, CfgView, Change, Code, ConflictView, Expect, List, PutAnswer, Removed, rfc3339};
use crate::crdt::{Key, Kind, Row};
use crate::model::cfg::{CfgKey, VALUE_MAX};

/// The longest value in bytes that a list shows: with a thousand settings a list stays at a megabyte.
const LISTED: usize = 1024;

impl Desk {
    pub(super) async fn put_setting(
        &self,
        key: CfgKey,
        value: Bytes,
        is_secret: bool,
        expect: Expect,
    ) -> Result<PutAnswer, ApiError> {
        let (row, warning) = self.setting_row(&key, &value, is_secret)?;
        let expect = expectation(expect)?;
        let edited = self.edit(Edit::PutSetting { key: key.clone(), row, expect }).await?;
        let mut answer = answer(key.name.as_str(), edited);
        answer.warnings.extend(warning);
        Ok(answer)
    }

    /// What [`Desk::put_setting`] would answer.
    pub(super) fn check_setting(
        &self,
        key: &CfgKey,
        value: &[u8],
        is_secret: bool,
        expect: &Expect,
    ) -> Result<PutAnswer, ApiError> {
        let (row, warning) = self.setting_row(key, value, is_secret)?;
        let definitions = self.catalog.read();
        let setting = definitions.settings.get(key);
        let current = setting.map(|setting| setting.version().to_string());
        expect.check(&key.to_string(), current.as_deref())?;
        let changed = match setting {
            None => Change::Created,
            Some(setting) if setting.row() == Some(&row) => Change::Unchanged,
            Some(_) => Change::Updated,
        };
        let absent = key.component.as_ref().filter(|component| definitions.component(component).is_none());
        let absent = absent.map(|component| format!("component {component} does not exist yet"));
        Ok(PutAnswer {
            name: key.name.to_string(),
            version: current.unwrap_or_default(),
            changed,
            warnings: absent.into_iter().chain(warning).collect(),
            notes: Vec::new(),
        })
    }

    /// The row that is to keep a value, and a warning. What is a secret stays one.
    fn setting_row(&self, key: &CfgKey, value: &[u8], is_secret: bool) -> Result<(Row, Option<String>), ApiError> {
        if value.len() > VALUE_MAX {
            return Err(too_large(key, value.len()));
        }
        let was_secret = {
            let definitions = self.catalog.read();
            let row = definitions.settings.get(key).and_then(Setting::row);
            row.is_some_and(|row| seal::shown(row).is_none())
        };
        if !is_secret && !was_secret {
            return Ok((seal::plain(value), None));
        }
        let place = Key::new(Kind::CONFIG, &key.row_name());
        let place = place.map_err(|error| ApiError::invalid(format!("{key}: {error}")))?;
        let sealed = self.catalog.seal().sealed(&place, value);
        let row = sealed.map_err(|error| ApiError::new(Code::Internal, format!("{key} {error}")))?;
        let stays = || format!("{key} was a secret and stays one; `maelctl cfg rm` first makes it forget that");
        Ok((row, (!is_secret).then(stays)))
    }

    pub(super) fn get_setting(&self, key: &CfgKey) -> Result<CfgView, ApiError> {
        let definitions = self.catalog.read();
        let Some(setting) = definitions.settings.get(key) else {
            let known: Vec<CfgKey> = definitions.settings.iter().map(|(known, _)| known).collect();
            let alike = known.iter().filter(|known| known.component == key.component);
            let mut error = ApiError::not_found("setting", key.name.as_str(), alike.map(|known| known.name.as_str()));
            error.message = format!("{key} does not exist");
            return Err(error);
        };
        Ok(view(&definitions, key, setting, VALUE_MAX))
    }

    pub(super) fn list_settings(&self) -> List<CfgView> {
        let definitions = self.catalog.read();
        let views = definitions.settings.iter().map(|(key, setting)| view(&definitions, &key, setting, LISTED));
        self.aged(views.collect())
    }

    pub(super) async fn delete_setting(&self, key: CfgKey, force: bool, expect: Expect) -> Result<Removed, ApiError> {
        let expect = expectation(expect)?;
        self.edit(Edit::RemoveSetting { key: key.clone(), force, expect }).await?;
        Ok(Removed { component: None, sources: Vec::new(), settings: vec![key.name.to_string()] })
    }
}

pub(super) fn too_large(key: &CfgKey, size: usize) -> ApiError {
    let message = format!("{key} is {size} bytes long, and the registry keeps at most {VALUE_MAX} of one");
    ApiError::new(Code::TooLarge, message).hint("mount a volume, or put the file into the image")
}

/// A setting as people see it: of a secret everything but the value and its length.
fn view(definitions: &Definitions, key: &CfgKey, setting: &Setting, longest: usize) -> CfgView {
    let value = setting.row().and_then(seal::shown);
    let others: Vec<String> = setting.others().map(sibling).collect();
    let users = definitions.settings.users(key).filter(|user| definitions.component(user).is_some());
    CfgView {
        name: key.name.to_string(),
        component: key.component.as_ref().map(ToString::to_string),
        secret: value.is_none(),
        size: value.as_ref().map(|value| value.len() as u64),
        value: value.filter(|value| value.len() <= longest).and_then(|value| String::from_utf8(value).ok()),
        users: users.map(ToString::to_string).collect(),
        version: setting.version().to_string(),
        updated_at: rfc3339(setting.updated()),
        conflict: (!others.is_empty()).then(|| ConflictView { others, definitions: Vec::new() }),
    }
}
