//! CheckStore: everything in the store is looked at, and what is wrong is told as it is found.

use std::sync::Arc;

use api::coracle::v1::{self, check_store_response::News};
use images::{End, Finding, Images, Object, Repair, Wrong};

use crate::{door::Teller, error::Error};

/// Checks.
pub(crate) async fn answer(
    request: v1::CheckStoreRequest,
    images: Arc<Images>,
    teller: Teller<v1::CheckStoreResponse>,
) -> Result<(), Error> {
    let news = |news| v1::CheckStoreResponse { news: Some(news) };
    let mut check = images.check(if request.repair { Repair::Yes } else { Repair::No })?;
    let total = check.left() as u64;
    while let Some(findings) = check.next().await? {
        for finding in findings {
            teller.tell(news(News::Finding(told(finding)))).await?;
        }
        let looked_at = total - check.left() as u64;
        teller.mention(news(News::Progress(v1::CheckProgress { looked_at, total })));
    }
    teller.tell(news(News::Done(v1::CheckDone { looked_at: total }))).await
}

fn told(finding: Finding) -> v1::Finding {
    let (kind, object) = match finding.object {
        Object::File(path) => (v1::ObjectKind::File, path.display().to_string()),
        Object::Record(id) => (v1::ObjectKind::Record, id.to_string()),
        Object::Blob(digest) => (v1::ObjectKind::Blob, digest.to_string()),
        Object::Layer(chain_id) => (v1::ObjectKind::Layer, chain_id.to_string()),
    };
    let (fault, why) = match finding.wrong {
        Wrong::Missing => (v1::Fault::Missing, String::new()),
        Wrong::Extra => (v1::Fault::Extra, String::new()),
        Wrong::Damaged { why } => (v1::Fault::Damaged, why),
    };
    let (end, end_detail) = match finding.end {
        End::Mended { how } => (v1::FindingEnd::Mended, how.to_owned()),
        End::Mendable { how } => (v1::FindingEnd::Mendable, how.to_owned()),
        End::Stays { why } => (v1::FindingEnd::Stays, why),
    };
    v1::Finding {
        kind: kind.into(),
        object,
        fault: fault.into(),
        why,
        owners: finding.owners,
        end: end.into(),
        end_detail,
    }
}
