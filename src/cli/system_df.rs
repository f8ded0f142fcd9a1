//! `coracle system df`: what takes how much of the disk, and for whom.

use std::{
    collections::HashMap,
    io::{Write, stdout},
    path::Path,
};

use api::coracle::v1::{DiskUsageRequest, DiskUsageResponse, ImageUsage, StoredObject};
use serde_json::{Value, json};

use crate::{
    arguments::{self, Format},
    daemon,
    error::{Error, Result},
    name::{familiar_name, short_id},
    size,
    table::table,
    text,
};

/// Stands for owners where there are none.
const NOBODY: &str = "nobody";

/// Things of one kind.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    total: usize,
    active: usize,
    bytes: u64,
    reclaimable: u64,
}

/// Tells it.
pub(crate) async fn run(socket: &Path, arguments: arguments::Df) -> Result<()> {
    let mut daemon = daemon::system(socket).await?;
    let mut pages = daemon.disk_usage(DiskUsageRequest {}).await.map_err(Error::refused)?.into_inner();
    let mut all = DiskUsageResponse::default();
    while let Some(page) = pages.message().await.map_err(Error::refused)? {
        all.images.extend(page.images);
        all.layers.extend(page.layers);
        all.blobs.extend(page.blobs);
    }
    let shown = match (arguments.format, arguments.verbose) {
        (Format::Table, false) => sums(&all),
        (Format::Table, true) => everything(&all),
        (Format::Json, false) => sum_objects(&all),
        (Format::Json, true) => format!("{}\n", object(&all)),
    };
    stdout().lock().write_all(shown.as_bytes()).map_err(Error::output)
}

/// What there is of each kind. The images are what their layers and blobs are, and nothing besides.
fn kinds(all: &DiskUsageResponse) -> [(&'static str, Sum); 3] {
    let (layers, blobs) = (sum(&all.layers), sum(&all.blobs));
    let images = Sum {
        total: all.images.len(),
        active: all.images.iter().filter(|image| image.containers > 0).count(),
        bytes: layers.bytes + blobs.bytes,
        reclaimable: layers.reclaimable + blobs.reclaimable,
    };
    [("Images", images), ("of them layers", layers), ("of them blobs", blobs)]
}

fn sum(objects: &[StoredObject]) -> Sum {
    objects.iter().fold(Sum::default(), |sum, object| Sum {
        total: sum.total + 1,
        active: sum.active + usize::from(object.in_use),
        bytes: sum.bytes + object.bytes,
        reclaimable: sum.reclaimable + if object.in_use { 0 } else { object.bytes },
    })
}

fn sums(all: &DiskUsageResponse) -> String {
    let rows = kinds(all).map(|(kind, sum)| {
        let Sum { total, active, bytes, reclaimable } = sum;
        let percent = (u128::from(reclaimable) * 100).checked_div(u128::from(bytes)).unwrap_or(0);
        let reclaimable = format!("{} ({percent}%)", size::human(reclaimable));
        vec![kind.to_owned(), total.to_string(), active.to_string(), size::human(bytes), reclaimable]
    });
    table(header(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]), rows)
}

fn sum_objects(all: &DiskUsageResponse) -> String {
    let keys = ["Images", "Layers", "Blobs"];
    let line = |(key, (_, sum)): (&str, (_, Sum))| {
        let Sum { total, active, bytes, reclaimable } = sum;
        let (size, free) = (size::human(bytes), size::human(reclaimable));
        let object = json!({
            "Type": key, "TotalCount": total, "Active": active, "Size": size, "SizeBytes": bytes,
            "Reclaimable": free, "ReclaimableBytes": reclaimable,
        });
        format!("{object}\n")
    };
    keys.into_iter().zip(kinds(all)).map(line).collect()
}

/// Each thing with its owners.
fn everything(all: &DiskUsageResponse) -> String {
    let images = all.images.iter().map(|image| {
        let (bytes, own) = (size::human(image.bytes), size::human(image.own_bytes));
        vec![name(image), short_id(&image.id).to_owned(), bytes, own, image.containers.to_string()]
    });
    let images = table(header(&["IMAGE", "IMAGE ID", "SIZE", "UNIQUE SIZE", "CONTAINERS"]), images);
    let names: HashMap<&str, String> = all.images.iter().map(|image| (image.id.as_str(), name(image))).collect();
    let objects = |what: &str, objects: &[StoredObject]| {
        let rows = objects.iter().map(|object| {
            let known = |id: &String| names.get(id.as_str()).cloned().unwrap_or_else(|| text::clean(id));
            let owners: Vec<String> = object.owners.iter().map(known).collect();
            let owners = match (owners.is_empty(), object.in_use) {
                (true, true) => "work under way".to_owned(),
                (true, false) => NOBODY.to_owned(),
                _ => owners.join(", "),
            };
            let digest = short_id(&object.digest).to_owned();
            vec![text::clean(&digest), size::human(object.bytes), object.inodes.to_string(), owners]
        });
        table(header(&[what, "SIZE", "INODES", "IMAGES"]), rows)
    };
    format!("{images}\n{}\n{}", objects("LAYER", &all.layers), objects("BLOB", &all.blobs))
}

fn object(all: &DiskUsageResponse) -> Value {
    let image = |image: &ImageUsage| {
        json!({
            "ID": image.id, "Names": image.names, "SizeBytes": image.bytes, "UniqueSizeBytes": image.own_bytes,
            "Containers": image.containers,
        })
    };
    let stored = |object: &StoredObject| {
        json!({
            "Digest": object.digest, "SizeBytes": object.bytes, "Inodes": object.inodes, "Images": object.owners,
            "InUse": object.in_use,
        })
    };
    json!({
        "Images": all.images.iter().map(image).collect::<Vec<_>>(),
        "Layers": all.layers.iter().map(stored).collect::<Vec<_>>(),
        "Blobs": all.blobs.iter().map(stored).collect::<Vec<_>>(),
    })
}

/// The first of its names, as people write it.
fn name(image: &ImageUsage) -> String {
    image.names.first().map_or_else(|| text::clean(&image.id), |name| text::clean(&familiar_name(name)))
}

fn header(titles: &[&str]) -> Vec<String> {
    titles.iter().map(|title| (*title).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> DiskUsageResponse {
        let image = |id: &str, name: &str, containers| ImageUsage {
            id: format!("sha256:{}", id.repeat(64)),
            names: vec![name.to_owned()],
            bytes: 3000,
            own_bytes: 1000,
            containers,
        };
        let stored = |digest: &str, bytes, owners: &[&str], in_use| StoredObject {
            digest: format!("sha256:{}", digest.repeat(64)),
            bytes,
            inodes: 7,
            owners: owners.iter().map(|id| format!("sha256:{}", id.repeat(64))).collect(),
            in_use,
        };
        DiskUsageResponse {
            images: vec![image("a", "docker.io/library/busybox:1", 1), image("b", "r.io/x:2", 0)],
            layers: vec![stored("1", 2000, &["a", "b"], true), stored("2", 1000, &["b"], false)],
            blobs: vec![stored("3", 500, &["a"], true), stored("4", 500, &[], false), stored("5", 1, &[], true)],
        }
    }

    #[test]
    fn what_no_container_uses_can_be_reclaimed() {
        assert_eq!(
            sums(&all()),
            "TYPE             TOTAL   ACTIVE   SIZE   RECLAIMABLE\n\
             Images           2       1        4kB    1.5kB (37%)\n\
             of them layers   2       1        3kB    1kB (33%)\n\
             of them blobs    3       2        1kB    500B (49%)\n"
        );
        let objects = sum_objects(&all());
        let images: Value = serde_json::from_str(objects.lines().next().unwrap()).unwrap();
        assert_eq!((&images["Type"], &images["SizeBytes"]), (&json!("Images"), &json!(4001)));
        assert_eq!(
            sums(&DiskUsageResponse::default()).lines().nth(1).unwrap(),
            "Images           0       0        0B     0B (0%)"
        );
    }

    #[test]
    fn each_thing_names_its_owners() {
        let told = everything(&all());
        let line = |start: &str| told.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
        assert!(line("busybox:1").ends_with("1"), "{told}");
        assert!(line("111111111111").ends_with("busybox:1, r.io/x:2"), "{told}");
        assert!(line("444444444444").ends_with(NOBODY), "{told}");
        assert!(line("555555555555").ends_with("work under way"), "{told}");
        assert_eq!(object(&all())["Layers"][0]["Images"].as_array().unwrap().len(), 2);
    }
}
