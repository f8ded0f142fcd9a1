//! `coracle system fsck`: is everything in the store what it should be, and mending it.

use std::{
    io::{Write, stdout},
    path::Path,
};

use api::coracle::v1::{CheckStoreRequest, Fault, Finding, FindingEnd, ObjectKind, check_store_response::News};
use serde_json::json;
use tonic::Status;

use crate::{
    arguments::{self, Format},
    bars, daemon,
    error::{Error, Result},
    text,
};

/// Checks. That something is left to be mended is told by the exit code, too.
pub(crate) async fn run(socket: &Path, arguments: arguments::Fsck) -> Result<()> {
    let request = CheckStoreRequest { repair: arguments.repair };
    let mut news = daemon::system(socket).await?.check_store(request).await.map_err(Error::refused)?.into_inner();
    let bar = bars::things("Checking", arguments.quiet);
    let (mut found, mut left) = (0_u64, 0_u64);
    let done = loop {
        let Some(message) = news.message().await.map_err(Error::refused)? else {
            return Err(Error::refused(Status::unavailable("the daemon broke off the check")));
        };
        match message.news {
            Some(News::Progress(progress)) => {
                bar.set_length(progress.total);
                bar.set_position(progress.looked_at);
            }
            Some(News::Finding(finding)) => {
                found += 1;
                left += u64::from(finding.end() != FindingEnd::Mended);
                let shown = match arguments.format {
                    Format::Table => line(&finding),
                    Format::Json => format!("{}\n", object(&finding)),
                };
                let write = || stdout().lock().write_all(shown.as_bytes());
                bar.suspend(write).map_err(Error::output)?;
            }
            Some(News::Done(done)) => break done,
            // News of a newer daemon.
            None => {}
        }
    };
    bar.finish_and_clear();
    if !arguments.quiet && arguments.format == Format::Table {
        let end = summary(done.looked_at, found, left);
        writeln!(stdout().lock(), "{end}").map_err(Error::output)?;
    }
    if left == 0 { Ok(()) } else { Err(Error::Told) }
}

fn summary(looked_at: u64, found: u64, left: u64) -> String {
    match (found, left) {
        (0, _) => format!("{looked_at} things looked at: all is well"),
        (found, 0) => format!("{looked_at} things looked at: {found} mended"),
        (found, left) => format!("{looked_at} things looked at: {found} are not well, {left} of them still"),
    }
}

/// `layer sha256:… of busybox:1: damaged: etc/passwd has another content: would be unpacked again (--repair)`
fn line(finding: &Finding) -> String {
    let mut line = format!("{} {}", kind(finding.kind()), finding.object);
    if !finding.owners.is_empty() {
        line += &format!(" of {}", finding.owners.join(", "));
    }
    line += &format!(": {}", fault(finding.fault()));
    if !finding.why.is_empty() {
        line += &format!(": {}", finding.why);
    }
    line += &match finding.end() {
        FindingEnd::Mended => format!("; mended: {}", finding.end_detail),
        FindingEnd::Mendable => format!("; with --repair: {}", finding.end_detail),
        FindingEnd::Stays => format!("; stays: {}", finding.end_detail),
    };
    text::clean(&line) + "\n"
}

fn object(finding: &Finding) -> serde_json::Value {
    let end = match finding.end() {
        FindingEnd::Mended => "mended",
        FindingEnd::Mendable => "mendable",
        FindingEnd::Stays => "stays",
    };
    json!({
        "Kind": kind(finding.kind()), "Object": finding.object, "Fault": fault(finding.fault()), "Why": finding.why,
        "Images": finding.owners, "End": end, "EndDetail": finding.end_detail,
    })
}

fn kind(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::File => "file",
        ObjectKind::Record => "record",
        ObjectKind::Blob => "blob",
        ObjectKind::Layer => "layer",
    }
}

fn fault(fault: Fault) -> &'static str {
    match fault {
        Fault::Damaged => "damaged",
        Fault::Missing => "missing",
        Fault::Extra => "extra",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_that_says_what_whose_and_what_came_of_it() {
        let mut finding = Finding {
            kind: ObjectKind::Layer.into(),
            object: "sha256:ab".into(),
            fault: Fault::Damaged.into(),
            why: "etc/\x1bpasswd has another content".into(),
            owners: vec!["r.io/x:1".into(), "r.io/y:1".into()],
            end: FindingEnd::Mendable.into(),
            end_detail: "unpacked again from its blob".into(),
        };
        assert_eq!(
            line(&finding),
            "layer sha256:ab of r.io/x:1, r.io/y:1: damaged: etc/\u{fffd}passwd has another content; \
             with --repair: unpacked again from its blob\n"
        );
        finding = Finding { end: FindingEnd::Stays.into(), why: String::new(), owners: Vec::new(), ..finding };
        assert_eq!(line(&finding), "layer sha256:ab: damaged; stays: unpacked again from its blob\n");
        assert_eq!(object(&finding)["End"], "stays");
        assert_eq!(summary(9, 0, 0), "9 things looked at: all is well");
        assert_eq!(summary(9, 2, 0), "9 things looked at: 2 mended");
        assert_eq!(summary(9, 2, 1), "9 things looked at: 2 are not well, 1 of them still");
    }
}
