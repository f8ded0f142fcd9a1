//! Programs with the set-user-ID bit, and `no_new_privs`.

use api::cri::v1::Int64Value;
use serde_json::json;
use testkit::{Layer, TempNode, programs};

use super::capability::set;
use crate::{
    scene::{Scene, of_image, security},
    support::{self, PROBE},
};

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_set_id_program_makes_root_only_where_privileges_may_grow() {
    const IMAGE: &str = "localhost/coracle/set-id:1";
    let mut node = TempNode::prepare(Default::default());
    support::import(node.dir(), support::probe().build().archive(PROBE)).await;
    let program = std::fs::read(programs().join("coracle-probe")).unwrap();
    let image = support::probe().layer(Layer::new().file("set-id", 0o4755, &program));
    support::import(node.dir(), image.build().archive(IMAGE)).await;
    node.start_daemon();
    let mut scene = Scene::on(node, |_| ()).await;
    for (name, no_new_privs, effective) in [("may", false, 0), ("may-not", true, 1000)] {
        let mut config = of_image(name, IMAGE, &["report"]);
        config.command = vec!["/set-id".into()];
        let context = security(&mut config);
        context.run_as_user = Some(Int64Value { value: 1000 });
        context.no_new_privs = no_new_privs;
        let report = scene.report(&config).await;
        assert_eq!(report["no_new_privs"], no_new_privs, "{name}");
        assert_eq!((&report["uids"][0], &report["uids"][1]), (&json!(1000), &json!(effective)), "{name}");
        assert_eq!(set(&report, "effective") != 0, effective == 0, "{name}");
    }
    scene.finish().await;
}
