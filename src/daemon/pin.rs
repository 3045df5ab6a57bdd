//! Ties the tag of an image to what it stands for when the component is put, so that every node runs the same at any
//! time. Where that cannot be found out the tag alone counts, and the answer says so.

use std::sync::Arc;

use serde_json::Value;

use super::catalog::Catalog;
use crate::id::ComponentName;
use crate::model::Component;
use crate::model::component::{Image, PullPolicy, Workload};
use crate::runtime::Runtime;

/// The document with the digest of its image, and a note if there is none. A document that is refused later is left as
/// it is.
pub(crate) async fn pin(
    runtime: &Arc<dyn Runtime>,
    catalog: &Catalog,
    name: &ComponentName,
    mut doc: Value,
) -> (Value, Option<String>) {
    let Ok(Component { workload: Workload::Image(image), .. }) = Component::parse(name, &doc) else {
        return (doc, None);
    };
    // An image that is never fetched is what each node was given under this name.
    if image.pinned.is_some() || image.reference.contains('@') || image.pull == PullPolicy::Never {
        return (doc, None);
    }
    let (digest, note) = match runtime.digest(&image).await {
        Ok(digest) => (Some(digest), None),
        Err(why) => match pinned_before(catalog, name, &image) {
            Some(digest) => {
                let note = format!("image {} stays pinned to {digest}: {why}", image.reference);
                (Some(digest), Some(note))
            }
            None => (None, Some(format!("image {} is not pinned to a digest: {why}", image.reference))),
        },
    };
    if let (Some(digest), Some(fields)) = (digest, doc.as_object_mut()) {
        fields.insert("pinned".to_owned(), format!("{}@{digest}", image.reference).into());
    }
    (doc, note)
}

/// What the same tag was pinned to until now.
fn pinned_before(catalog: &Catalog, name: &ComponentName, image: &Image) -> Option<String> {
    match &catalog.read().component(name)?.value.workload {
        Workload::Image(before) if before.reference == image.reference => before.pinned.clone(),
        Workload::Image(_) | Workload::Command(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crdt::{Expect, Hlc, Kind, Registry};
    use crate::daemon::catalog::{Definitions, row};
    use crate::id::{InstanceId, NodeId};
    use crate::runtime::{BoxFuture, Found, InstanceSpec, OnProgress, RuntimeError, Started};
    use crate::time::Wall;

    const ONE: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

    /// Knows one digest, or why it knows none.
    #[derive(Debug)]
    struct Engine(Result<String, String>);

    impl Runtime for Engine {
        fn name(&self) -> &'static str {
            "docker"
        }
        fn digest<'a>(&'a self, _: &'a Image) -> BoxFuture<'a, Result<String, String>> {
            Box::pin(async { self.0.clone() })
        }
        fn start<'a>(&'a self, _: &'a InstanceSpec, _: OnProgress) -> BoxFuture<'a, Result<Started, RuntimeError>> {
            unreachable!("nothing is started here")
        }
        fn freeze<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Result<(), RuntimeError>> {
            unreachable!("nothing is frozen here")
        }
        fn thaw<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Result<(), RuntimeError>> {
            unreachable!("nothing is thawed here")
        }
        fn stop<'a>(
            &'a self,
            _: &'a InstanceId,
            _: &'a str,
            _: std::time::Duration,
        ) -> BoxFuture<'a, Result<(), RuntimeError>> {
            unreachable!("nothing is stopped here")
        }
        fn adopt(&self) -> BoxFuture<'_, Result<Vec<Found>, RuntimeError>> {
            unreachable!("nothing is adopted here")
        }
    }

    fn name() -> ComponentName {
        "api".parse().expect("a name")
    }

    /// The definition as it is after a put, and the note.
    async fn put(engine: Result<&str, &str>, catalog: &Catalog, doc: Value) -> (Component, Option<String>) {
        let engine: Arc<dyn Runtime> = Arc::new(Engine(engine.map(str::to_owned).map_err(str::to_owned)));
        let (doc, note) = pin(&engine, catalog, &name(), doc).await;
        (Component::parse(&name(), &doc).expect("a component"), note)
    }

    fn catalog(before: Option<&Component>) -> Catalog {
        let mut registry = Registry::restore(NodeId(1), Hlc(1), []);
        if let Some(before) = before {
            let row = row(&before.to_doc());
            registry.put(Kind::COMPONENT, "api", row, Expect::Any, Wall(1)).expect("written");
        }
        let secret = crate::transport::token::Secret::from_bytes([1; 32]);
        let seal = crate::daemon::seal::Seal::new(crate::id::ClusterId(1), &secret).expect("a key");
        Catalog::new(Definitions::of(&registry), Arc::default(), seal)
    }

    fn runs(component: &Component) -> String {
        match &component.workload {
            Workload::Image(image) => image.exact(),
            Workload::Command(_) => panic!("an image was put"),
        }
    }

    #[tokio::test]
    async fn a_tag_is_kept_as_it_was_written_and_its_digest_is_what_runs() {
        let (component, note) = put(Ok(ONE), &catalog(None), json!({"image": "team/app:1"})).await;
        assert_eq!((runs(&component), note), (format!("team/app@{ONE}"), None));
        assert_eq!(component.to_doc()["image"], "team/app:1");
        assert_eq!(component.to_doc()["pinned"], format!("team/app:1@{ONE}"));
    }

    #[tokio::test]
    async fn a_registry_that_is_away_makes_a_note_and_what_was_pinned_stays_so() {
        let away = Err("registry docker.io did not tell");
        let (component, note) = put(away, &catalog(None), json!({"image": "team/app:1"})).await;
        assert_eq!(runs(&component), "team/app:1");
        assert!(note.is_some_and(|note| note.contains("not pinned") && note.contains("did not tell")));
        let (before, _) = put(Ok(ONE), &catalog(None), json!({"image": "team/app:1"})).await;
        let (again, note) = put(away, &catalog(Some(&before)), json!({"image": "team/app:1"})).await;
        assert_eq!(again, before, "nothing is replaced because a registry is away");
        assert!(note.is_some_and(|note| note.contains("stays pinned")));
        let (other, _) = put(away, &catalog(Some(&before)), json!({"image": "team/app:2"})).await;
        assert_eq!(runs(&other), "team/app:2");
    }

    #[tokio::test]
    async fn what_names_its_digest_or_is_never_fetched_is_left_alone() {
        let exact = format!("team/app@{ONE}");
        for doc in [json!({"image": exact}), json!({"image": "app:1", "pull": "never"}), json!({"command": "app"})] {
            let (component, note) = put(Err("nobody asks"), &catalog(None), doc).await;
            assert_eq!((component.to_doc().get("pinned"), note), (None, None));
        }
    }
}
