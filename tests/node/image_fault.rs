//! Every named step by which images come and go made to fail, and the daemon killed before and after each.
//!
//! Whatever happens: what is listed is whole, the same request works afterwards, a name belongs to one image, and in
//! the end nothing of any image is left.

use std::fs;

use api::{
    coracle::v1::{RemoveImageRequest, TagImageRequest},
    cri::v1::{ImageSpec, ImageStatusRequest, ListImagesRequest},
};
use images::Step;
use testkit::{Access, BuiltImage, Cri, Layer, NodeOptions, TempNode, TinyRegistry, container, eventually, pod};
use tonic::{Code, Status};

use crate::{
    scene::SOON,
    support::{self, prepared},
};

/// The variable that injects faults.
const FAULTS: &str = "CORACLED_FAULTS";

/// What is done with two images, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// The first comes.
    Pull,
    /// It gets a second name,
    Tag,
    /// and loses it.
    Untag,
    /// The second comes, under the first one's name.
    Move,
    /// The first, which a container uses, is removed.
    Remove,
    /// So is the container.
    EndUse,
    /// The second is removed.
    RemoveUnused,
}

const LIFE: [Act; 7] = [Act::Pull, Act::Tag, Act::Untag, Act::Move, Act::Remove, Act::EndUse, Act::RemoveUnused];

/// The first act that passes a step. A step without its line does not compile, so each has its case.
fn act_of(step: Step) -> Act {
    match step {
        Step::Blob | Step::Layer | Step::Sync | Step::Record => Act::Pull,
        Step::Untagged => Act::Untag,
        Step::Robbed => Act::Move,
        Step::Unlisted => Act::Remove,
        Step::Discarded | Step::Cleared => Act::EndUse,
    }
}

/// Whether a step's failure is only told to the log, and made good by the next start: nobody waits for it.
fn is_only_logged(step: Step) -> bool {
    matches!(step, Step::Discarded | Step::Cleared)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    FailOnce,
    KillBefore,
    KillAfter,
}

impl How {
    const ALL: [How; 3] = [How::FailOnce, How::KillBefore, How::KillAfter];

    fn name(self) -> &'static str {
        match self {
            How::FailOnce => "fail-once",
            How::KillBefore => "kill-before",
            How::KillAfter => "kill-after",
        }
    }
}

/// Two images and their uses, from one daemon to the next.
struct Life {
    registry: TinyRegistry,
    name: String,
    second_name: String,
    images: [BuiltImage; 2],
    /// Ids, as they become known.
    ids: [String; 2],
    pod: String,
}

impl Life {
    fn new() -> Self {
        let registry = TinyRegistry::http(Access::Open);
        let image = |text: &str| support::probe().layer(Layer::new().file("text", 0o644, text.as_bytes())).build();
        Self {
            name: format!("{}/thing:1", registry.host()),
            second_name: format!("{}/thing:second", registry.host()),
            images: [image("first"), image("second")],
            ids: Default::default(),
            pod: String::new(),
            registry,
        }
    }

    /// Does an act as whoever repeats it does: what is done already is fine.
    async fn perform(&mut self, node: &TempNode, act: Act) -> Result<(), Status> {
        let mut cri = node.client().await;
        match act {
            Act::Pull => {
                self.registry.push("thing", "1", &self.images[0]);
                self.ids[0] = cri.pull(&self.name).await?;
            }
            Act::Tag => {
                let request = TagImageRequest { source: self.name.clone(), target: self.second_name.clone() };
                node.operator().await.images.tag_image(request).await?;
            }
            Act::Untag => {
                let request = RemoveImageRequest { name: self.second_name.clone(), force: false };
                match node.operator().await.images.remove_image(request).await {
                    Err(status) if status.code() == Code::NotFound => {}
                    removed => _ = removed?,
                }
            }
            Act::Move => {
                self.registry.push("thing", "1", &self.images[1]);
                self.ids[1] = cri.pull(&self.name).await?;
            }
            Act::Remove => {
                if self.pod.is_empty() {
                    let config = pod("user", node.dir());
                    self.pod = cri.run(&config).await?;
                    cri.start(&self.pod, &config, &container("main", &self.ids[0], &["sleep", "forever"])).await?;
                }
                cri.remove_image(&self.ids[0]).await?;
            }
            Act::EndUse => cri.remove(&self.pod).await?,
            Act::RemoveUnused => cri.remove_image(&self.ids[1]).await?,
        }
        Ok(())
    }

    /// The id behind each name, once `act` is done.
    fn named_after(&self, act: Act) -> [Option<&str>; 2] {
        let [first, second] = [&self.ids[0], &self.ids[1]].map(|id| Some(id.as_str()));
        match act {
            Act::Pull | Act::Untag => [first, None],
            Act::Tag => [first, first],
            Act::Move | Act::Remove | Act::EndUse => [second, None],
            Act::RemoveUnused => [None, None],
        }
    }

    /// What is listed is whole, and has the names that it is to have.
    async fn is_as_after(&self, node: &TempNode, act: Act, case: &str) {
        let mut cri = node.client().await;
        for (name, id) in [&self.name, &self.second_name].into_iter().zip(self.named_after(act)) {
            let found = find(&mut cri, name).await;
            assert_eq!(found.as_deref(), id, "{case}: {name} after {act:?}");
        }
        let listed = cri.images.list_images(ListImagesRequest::default()).await.unwrap().into_inner().images;
        for name in [&self.name, &self.second_name] {
            let owners = listed.iter().filter(|image| image.repo_tags.contains(name)).count();
            assert!(owners <= 1, "{case}: {name} belongs to {owners} images");
        }
        let findings = node.operator().await.check_store().await.unwrap();
        assert!(findings.is_empty(), "{case}: after {act:?}: {findings:#?}");
    }
}

async fn find(cri: &mut Cri, name: &str) -> Option<String> {
    let image = Some(ImageSpec { image: name.to_owned(), ..Default::default() });
    let found = cri.images.image_status(ImageStatusRequest { image, verbose: false }).await.unwrap();
    found.into_inner().image.map(|image| image.id)
}

/// How many entries the store has in the directories whose content comes and goes.
fn entries(node: &TempNode) -> Vec<usize> {
    let count = |below: &str| fs::read_dir(node.dir().join("root/images").join(below)).unwrap().count();
    ["records", "blobs", "layers", "ingest", "trash"].map(count).into()
}

/// Lives a whole life on a node whose daemon does not run, with something happening at `step`; where that stops an act,
/// it is asked for again. The node's daemon does not run afterwards.
async fn live(node: &mut TempNode, step: Step, how: How, before: &[usize]) {
    let case = format!("{step}={}", how.name());
    node.set_environment(vec![(FAULTS.to_owned(), case.clone())]);
    node.start_daemon();
    let mut life = Life::new();
    for act in LIFE {
        let done = tokio::time::timeout(SOON, life.perform(node, act)).await.expect("an act ends");
        match (act == act_of(step), how) {
            (false, _) => done.unwrap_or_else(|status| panic!("{case}: {act:?}: {status}")),
            (true, How::FailOnce) if is_only_logged(step) => {
                done.unwrap_or_else(|status| panic!("{case}: {act:?}: {status}"));
                let told = || if node.log().contains("made to fail") { Ok(()) } else { Err(node.log()) };
                eventually(SOON, "the failure is told", told);
                node.set_environment(Vec::new());
                node.restart_daemon();
            }
            (true, How::FailOnce) => {
                let refused = done.expect_err("a step fails");
                assert!(refused.message().contains(step.name()), "{case}: {refused}");
                let findings = node.operator().await.check_store().await.unwrap();
                assert!(findings.is_empty(), "{case}: {findings:#?}");
                life.perform(node, act).await.unwrap_or_else(|status| panic!("{case}: {act:?} again: {status}"));
            }
            // The record of what nobody uses any more goes after the last user has its answer.
            (true, How::KillBefore | How::KillAfter) => {
                node.await_death();
                node.set_environment(Vec::new());
                node.start_daemon();
                let findings = node.operator().await.check_store().await.unwrap();
                assert!(findings.is_empty(), "{case}: {findings:#?}");
                life.perform(node, act).await.unwrap_or_else(|status| panic!("{case}: {act:?} again: {status}"));
            }
        }
        life.is_as_after(node, act, &case).await;
    }
    eventually(SOON, "nothing of the images is left", || {
        let left = entries(node);
        if left == before { Ok(()) } else { Err((case.clone(), left)) }
    });
    node.kill_daemon();
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn every_step_by_which_an_image_comes_or_goes_may_fail_or_be_the_daemons_last() {
    let mut node = prepared(NodeOptions::default()).await;
    // The import that has just ended may not have emptied its trash.
    let before: Vec<usize> = entries(&node).into_iter().take(3).chain([0, 0]).collect();
    for step in Step::ALL {
        for how in How::ALL {
            live(&mut node, *step, how, &before).await;
        }
    }
    node.set_environment(Vec::new());
    node.start_daemon();
    node.finish().await;
}
