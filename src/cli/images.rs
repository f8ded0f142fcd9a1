//! `coracle images`: a row for each name of each image.

use std::{
    io::{Write, stdout},
    path::Path,
};

use api::coracle::v1::{Image, ListImagesRequest};
use jiff::Timestamp;
use serde_json::json;

use crate::{
    age::Created,
    arguments::{self, Format},
    daemon,
    error::{Error, Result},
    name::{Name, short_id},
    size,
    table::table,
    text,
};

/// Stands where there is nothing.
const NONE: &str = "<none>";

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    repository: String,
    tag: String,
    digest: String,
    id: String,
    created: Created,
    bytes: u64,
}

/// Lists.
pub(crate) async fn run(socket: &Path, arguments: arguments::Images) -> Result<()> {
    let mut daemon = daemon::images(socket).await?;
    let request = ListImagesRequest { name: arguments.name.clone().unwrap_or_default() };
    let mut pages = daemon.list_images(request).await.map_err(Error::refused)?.into_inner();
    let mut rows = Vec::new();
    while let Some(page) = pages.message().await.map_err(Error::refused)? {
        rows.extend(page.images.iter().flat_map(|image| rows_of(image, arguments.digests)));
    }
    // The newest first, as people look for what they have just made.
    rows.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| (&a.repository, &a.tag).cmp(&(&b.repository, &b.tag))));
    let shown = shown(&rows, &arguments, Timestamp::now());
    stdout().lock().write_all(shown.as_bytes()).map_err(Error::output)
}

/// A row for each tag, and for each digest of a repository without a tag; with `digests` each tag beside its digest.
fn rows_of(image: &Image, digests: bool) -> Vec<Row> {
    let row = |repository: &str, tag: &str, digest: &str| {
        let or_none = |part: &str| if part.is_empty() { NONE.to_owned() } else { text::clean(part) };
        Row {
            repository: or_none(repository),
            tag: or_none(tag),
            digest: or_none(digest),
            id: text::clean(&image.id),
            created: Created::read(&image.created),
            bytes: image.size_bytes,
        }
    };
    let read = |names: &[String]| names.iter().filter_map(|name| Name::read(name)).collect::<Vec<_>>();
    let (tags, by_digest) = (read(&image.tags), read(&image.digests));
    let mut rows = Vec::new();
    for name in &tags {
        let own = by_digest.iter().filter(|other| other.repository == name.repository);
        let own: Vec<&str> = own.map(|other| other.digest.as_str()).collect();
        match own.as_slice() {
            [] => rows.push(row(&name.repository, &name.tag, "")),
            [first, ..] if !digests => rows.push(row(&name.repository, &name.tag, first)),
            all => rows.extend(all.iter().map(|digest| row(&name.repository, &name.tag, digest))),
        }
    }
    let mut untagged = by_digest;
    untagged.retain(|name| tags.iter().all(|tag| tag.repository != name.repository));
    if !digests {
        untagged.dedup_by(|a, b| a.repository == b.repository);
    }
    rows.extend(untagged.iter().map(|name| row(&name.repository, "", &name.digest)));
    if rows.is_empty() {
        rows.push(row("", "", ""));
    }
    rows
}

fn shown(rows: &[Row], arguments: &arguments::Images, now: Timestamp) -> String {
    let id = |row: &Row| if arguments.no_trunc { row.id.clone() } else { short_id(&row.id).to_owned() };
    if arguments.quiet {
        let mut ids: Vec<String> = Vec::new();
        rows.iter().map(id).for_each(|id| {
            if !ids.contains(&id) {
                ids.push(id);
            }
        });
        return ids.iter().map(|id| format!("{id}\n")).collect();
    }
    if arguments.format == Format::Json {
        return rows.iter().map(|row| format!("{}\n", object(row, id(row), now))).collect();
    }
    let digest = |cells: &mut Vec<String>, digest: &str| {
        if arguments.digests {
            cells.insert(2, digest.to_owned());
        }
    };
    let mut header = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"].map(str::to_owned).to_vec();
    digest(&mut header, "DIGEST");
    let cells = rows.iter().map(|row| {
        let (age, bytes) = (row.created.ago(now), size::human(row.bytes));
        let mut cells = vec![row.repository.clone(), row.tag.clone(), id(row), age, bytes];
        digest(&mut cells, &row.digest);
        cells
    });
    table(header, cells)
}

/// The keys are Docker's, and `SizeBytes` for those who count.
fn object(row: &Row, id: String, now: Timestamp) -> serde_json::Value {
    json!({
        "Repository": row.repository,
        "Tag": row.tag,
        "Digest": row.digest,
        "ID": id,
        "CreatedAt": row.created.at(),
        "CreatedSince": row.created.ago(now),
        "Size": size::human(row.bytes),
        "SizeBytes": row.bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(tags: &[&str], digests: &[&str]) -> Image {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        Image {
            id: format!("sha256:{}", "ab".repeat(32)),
            tags: texts(tags),
            digests: texts(digests),
            size_bytes: 4_262_000,
            created: "2026-01-31T11:59:00Z".to_owned(),
            pinned: false,
        }
    }

    fn listed(image: &Image, more: &[&str]) -> String {
        use clap::Parser;
        let line = ["coracle", "images"].iter().chain(more);
        let crate::arguments::Act::Images(arguments) = arguments::Arguments::parse_from(line).act else { panic!() };
        shown(&rows_of(image, arguments.digests), &arguments, "2026-01-31T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn every_name_has_a_row_and_what_has_none_is_none() {
        let digest = format!("r.io/x@sha256:{}", "cd".repeat(32));
        let table = listed(&image(&["docker.io/library/busybox:1", "r.io/x:2"], &[&digest]), &[]);
        assert_eq!(
            table,
            "REPOSITORY   TAG   IMAGE ID       CREATED              SIZE\n\
             busybox      1     abababababab   About a minute ago   4.26MB\n\
             r.io/x       2     abababababab   About a minute ago   4.26MB\n"
        );
        let table = listed(&image(&[], &[&digest]), &["--digests"]);
        assert!(
            table.lines().nth(1).unwrap().starts_with(&format!("r.io/x       <none>   sha256:{}", "cd".repeat(32)))
        );
        let table = listed(&image(&[], &[]), &["--no-trunc"]);
        assert!(table.lines().nth(1).unwrap().starts_with("<none>       <none>   sha256:abab"), "{table}");
    }

    #[test]
    fn scripts_get_ids_or_objects() {
        let image = image(&["r.io/x:1", "r.io/x:2"], &[]);
        assert_eq!(listed(&image, &["-q"]), "abababababab\n");
        let objects = listed(&image, &["--format", "json"]);
        let first: serde_json::Value = serde_json::from_str(objects.lines().next().unwrap()).unwrap();
        assert_eq!(
            first,
            json!({
                "Repository": "r.io/x", "Tag": "1", "Digest": "<none>", "ID": "abababababab", "Size": "4.26MB",
                "CreatedAt": "2026-01-31 11:59:00 +0000 UTC", "CreatedSince": "About a minute ago",
                "SizeBytes": 4_262_000,
            })
        );
        assert_eq!(objects.lines().count(), 2);
    }
}
