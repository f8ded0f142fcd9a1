//! The layers of an image, made side by side: each is unpacked while its blob comes, and beside those below it.
//!
//! Blobs come a few at a time, the lowest first. A layer is begun as soon as the first bytes of its blob are on the
//! disk and there is a place; it waits by itself where it has to know what lies below. It gets its name when its blob
//! is in the store, verified, and its own content is what the configuration says. If the bytes that it was made from
//! turn out to be wrong, it is made again from those that came in their stead. Only what comes to more than is allowed
//! is not waited for: it is left at once, and begun anew from the next host, since the first may lie.

use std::{
    io::Read,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use model::Digest;
use tokio::{runtime::Handle, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Fault, Result,
    arrival::Arrival,
    budget::Budget,
    claim::Claim,
    early::Writing,
    fetch::{Source, Wanted, fetch},
    inflate::Window,
    layer::{self, Job, Unpacked},
    manifest::LayerPlan,
    place::Place,
    progress::{Meter, Stage},
    record::LayerSize,
    shelf::Shelf,
    turns::Making,
};

/// Layers in the making.
#[derive(Debug)]
struct Stack {
    shelf: Arc<Shelf>,
    source: Arc<Source>,
    layers: Vec<(LayerPlan, Arc<Meter>)>,
    /// Which of them are there.
    there: watch::Sender<Vec<bool>>,
    /// Keeps what was found and made. Held by the threads too, which may outlive the pull: what they read must stay.
    claims: Mutex<Vec<Claim>>,
    /// What all of them may take together.
    budget: Arc<Budget>,
    writing: Arc<Writing>,
    cancel: CancellationToken,
}

/// One that is missing.
#[derive(Debug, Clone)]
struct Missing {
    /// Its place, from below.
    at: usize,
    /// Its blob.
    arrival: Arc<Arrival>,
}

/// Makes all layers that are not there; the sizes of all, and what keeps them.
pub(crate) async fn make(
    shelf: &Arc<Shelf>,
    source: &Arc<Source>,
    layers: Vec<(LayerPlan, Arc<Meter>)>,
    writing: Arc<Writing>,
) -> Result<(Vec<LayerSize>, Vec<Claim>)> {
    let stack = Arc::new(Stack {
        shelf: shelf.clone(),
        source: source.clone(),
        there: watch::Sender::new(vec![false; layers.len()]),
        layers,
        claims: Mutex::default(),
        budget: Budget::of(&shelf.config.limits),
        writing,
        cancel: CancellationToken::new(),
    });
    // Dropped with this future: then threads that unpack for it stop.
    let _cancel = stack.cancel.clone().drop_guard();
    let mut sizes = vec![LayerSize::default(); stack.layers.len()];
    let (mut missing, mut unpacking) = (Vec::new(), JoinSet::new());
    for (at, (plan, meter)) in stack.layers.iter().enumerate() {
        match shelf.claim_layer(&plan.chain_id) {
            Some((claim, size)) => {
                meter.enter(Stage::WasHere);
                stack.count(at, size)?;
                sizes[at] = size;
                stack.keep(at, claim);
                // Kept too, if it is here: who pushes or saves the image needs it.
                let blob = plan.blob.clone();
                let blob = shelf.working(move |shelf| shelf.claim_blob(&blob)).await?;
                let is_here = blob.is_some();
                blob.into_iter().for_each(|claim| stack.hold(claim));
                if is_here {
                    stack.check_brought(at).await?;
                }
            }
            None => {
                let one = Missing { at, arrival: Arrival::new() };
                missing.push(one.clone());
                unpacking.spawn(unpack(stack.clone(), one));
            }
        }
    }
    let unpacked = async {
        while let Some(done) = unpacking.join_next().await {
            let (at, size) = done.unwrap_or(Err(Error::Cancelled))?;
            sizes[at] = size;
        }
        Ok(())
    };
    tokio::try_join!(fetch_all(&stack, missing), unpacked)?;
    let claims = std::mem::take(&mut *stack.claims.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((sizes, claims))
}

/// Fetches the blobs, so many at a time, the lowest first: they are needed first.
async fn fetch_all(stack: &Arc<Stack>, missing: Vec<Missing>) -> Result<()> {
    let most = stack.shelf.config.parallel_fetches.max(1);
    let mut under_way = JoinSet::new();
    for one in missing {
        while under_way.len() >= most {
            landed(under_way.join_next().await)?;
        }
        under_way.spawn(fetch_one(stack.clone(), one));
    }
    while !under_way.is_empty() {
        landed(under_way.join_next().await)?;
    }
    Ok(())
}

fn landed(fetched: Option<Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    fetched.unwrap_or(Ok(Ok(()))).unwrap_or(Err(Error::Cancelled))
}

async fn fetch_one(stack: Arc<Stack>, Missing { at, arrival }: Missing) -> Result<()> {
    let (plan, meter) = &stack.layers[at];
    let wanted = Wanted { digest: &plan.blob, bytes: plan.bytes, meter, arrival: &arrival };
    let fetched = fetch(&stack.shelf, &stack.source, &wanted).await;
    // That all who have it send too much is for the limits; that one does, and what the others say, for the hosts.
    let claim = fetched.map_err(|error| match arrival.take_refusal() {
        Some(refusal) if error.is_of_content() => refusal,
        _ => error,
    })?;
    stack.hold(claim);
    meter.enter(Stage::Fetched);
    arrival.has_its_name();
    Ok(())
}

/// Makes one layer. Without end if its blob never comes: whoever fetches it tells why.
async fn unpack(stack: Arc<Stack>, Missing { at, arrival }: Missing) -> Result<(usize, LayerSize)> {
    let (plan, meter) = &stack.layers[at];
    arrival.begun().await;
    let making = Making { from: stack.source.of(&plan.blob), chain_id: plan.chain_id.clone() };
    let turn = stack.shelf.unpacking.take(making).await;
    if let Some((claim, size)) = stack.shelf.claim_layer(&plan.chain_id) {
        drop(turn);
        stack.count(at, size)?;
        stack.keep(at, claim);
        arrival.stored().await;
        stack.check_brought(at).await?;
        meter.enter(Stage::Done);
        return Ok((at, size));
    }
    let unpacked = loop {
        match stack.unpack_on_the_way(at, &arrival).await? {
            OnTheWay::Made(unpacked) => break unpacked,
            OnTheWay::Refused => arrival.begun().await,
            OnTheWay::Later => {
                arrival.stored().await;
                meter.enter(Stage::Unpacking);
                break stack.unpack_stored(at).await?;
            }
        }
    };
    let (size, name) = (unpacked.size, plan.chain_id.clone());
    let keep = move |shelf: &Arc<Shelf>| shelf.keep_layer(&unpacked.path, &name, unpacked.size);
    let claim = stack.shelf.blocking(keep).await?;
    meter.enter(Stage::Done);
    let is_last = stack.keep(at, claim);
    drop(turn);
    if !is_last {
        stack.writing.add(&stack.shelf, size).await?;
    }
    Ok((at, size))
}

impl Stack {
    /// Makes a layer from what comes, if it can be begun before all of it is there.
    async fn unpack_on_the_way(self: &Arc<Self>, at: usize, arrival: &Arc<Arrival>) -> Result<OnTheWay> {
        let plan = &self.layers[at].0;
        let is_ready = async {
            arrival.stored().await;
            self.is_based(at).await;
        };
        let place = self.shelf.places.take(plan.bytes, is_ready).await?;
        let stop = self.cancel.child_token();
        let follow = if arrival.is_stored() { None } else { arrival.follow(&Handle::current(), stop.clone()) };
        let Some(follow) = follow else {
            drop(place);
            return Ok(OnTheWay::Later);
        };
        let making = async {
            match self.make_of(at, place, Window::Common, stop, move |_| Ok(follow)).await {
                Err(error) if is_too_much(&error) => match arrival.refuse(error) {
                    Ok(()) => Err(()),
                    Err(error) => Ok(Err(error)),
                },
                made => Ok(made),
            }
        };
        let come = async {
            arrival.stored().await;
            self.layers[at].1.enter(Stage::Unpacking);
            Ok(())
        };
        // Named only when its blob is, and not believed before either: bytes that nobody has verified may be anything.
        match tokio::try_join!(making, come) {
            Err(()) => Ok(OnTheWay::Refused),
            Ok((Ok(unpacked), ())) => Ok(OnTheWay::Made(unpacked)),
            Ok((Err(error), ())) if arrival.is_whole() && !asks_for_more(&error) => Err(error),
            Ok((Err(error), ())) => {
                tracing::debug!(blob = %plan.blob, %error, "a layer is made again from what came in the end");
                Ok(OnTheWay::Later)
            }
        }
    }

    /// Makes a layer from its blob in the store.
    async fn unpack_stored(self: &Arc<Self>, at: usize) -> Result<Unpacked> {
        let place = self.shelf.places.take(self.layers[at].0.bytes, self.is_based(at)).await?;
        let open = |blob: Digest| move |shelf: &Arc<Shelf>| shelf.blobs.open(&blob);
        let blob = &self.layers[at].0.blob;
        match self.make_of(at, place, Window::Common, self.cancel.child_token(), open(blob.clone())).await {
            Err(error) if asks_for_more(&error) => {
                // There are few, and whoever waited in one for a layer below might keep it from that very layer.
                self.is_based(at).await;
                let place = self.shelf.places.take_wide().await?;
                self.make_of(at, place, Window::Wide, self.cancel.child_token(), open(blob.clone())).await
            }
            made => made,
        }
    }

    /// Checks the blob of a layer that is not made of it, since it is here already, where an archive has brought the
    /// blob: in which order the blobs of `docker save` belong to the configuration's diff ids is the archive's word.
    /// What a registry's manifest says of a blob that is not fetched cannot be checked, and nothing is made of it.
    async fn check_brought(&self, at: usize) -> Result<()> {
        let Source::Archive(checked) = &*self.source else { return Ok(()) };
        let plan = self.layers[at].0.clone();
        let LayerPlan { blob, diff_id, .. } = plan.clone();
        if blob == diff_id || checked.has(&blob, &diff_id) {
            return Ok(());
        }
        let (place, cancel) = (self.shelf.places.take_wide().await?, self.cancel.clone());
        let check = move |shelf: &Arc<Shelf>| {
            let _place = place;
            layer::check_diff_id(shelf, &plan, &cancel)
        };
        self.shelf.at_last(check).await?;
        checked.add(blob, diff_id);
        Ok(())
    }

    async fn make_of<R: Read + Send>(
        self: &Arc<Self>,
        at: usize,
        place: Place,
        window: Window,
        stop: CancellationToken,
        open: impl FnOnce(&Arc<Shelf>) -> Result<R> + Send + 'static,
    ) -> Result<Unpacked> {
        let (stack, runtime) = (self.clone(), Handle::current());
        let make = move |shelf: &Arc<Shelf>| {
            let _place = place;
            let blob = open(shelf)?;
            let below = stack.clone();
            let lowers = move || below.lowers(at, &runtime);
            let job = Job { plan: &stack.layers[at].0, share: stack.budget.share(), window, stop };
            layer::make(shelf, job, blob, lowers)
        };
        self.shelf.at_last(make).await
    }

    /// The directories of the layers below, topmost first, when they are all there. On a thread that may wait.
    fn lowers(&self, at: usize, runtime: &Handle) -> Result<Vec<PathBuf>, Fault> {
        let there = async {
            tokio::select! {
                () = self.is_based(at) => Ok(()),
                () = self.cancel.cancelled() => Err(Fault::Cancelled),
            }
        };
        runtime.block_on(there)?;
        Ok(self.layers[..at].iter().rev().map(|(plan, _)| self.shelf.layer(&plan.chain_id)).collect())
    }

    /// Waits until every layer below is there.
    async fn is_based(&self, at: usize) {
        let mut there = self.there.subscribe();
        // The sender is our own.
        let _ = there.wait_for(|there| there[..at].iter().all(|there| *there)).await;
    }

    /// A layer that others have made takes of what the image may take, as if it were made.
    fn count(&self, at: usize, size: LayerSize) -> Result<()> {
        self.budget.take(size).map_err(|source| Error::Layer { layer: self.layers[at].0.blob.clone(), source })
    }

    /// A layer is there; whether all of them are now.
    fn keep(&self, at: usize, claim: Claim) -> bool {
        self.hold(claim);
        let mut all = false;
        self.there.send_modify(|there| {
            there[at] = true;
            all = there.iter().all(|there| *there);
        });
        all
    }

    fn hold(&self, claim: Claim) {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).push(claim);
    }
}

/// What came of making a layer of what comes.
#[derive(Debug)]
enum OnTheWay {
    Made(Unpacked),
    /// What came was too much. If it comes anew, that may be something else.
    Refused,
    /// It is to be made from the blob in the store.
    Later,
}

/// Whether a layer failed because it is more than is allowed, whatever else it may turn out to be.
fn is_too_much(error: &Error) -> bool {
    matches!(error, Error::Layer { source: Fault::Budget { .. }, .. })
}

/// Whether a layer failed only because its inflating takes more memory than it got.
fn asks_for_more(error: &Error) -> bool {
    matches!(error, Error::Layer { source: Fault::Window, .. })
}
