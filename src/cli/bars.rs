//! Progress: bars on a terminal, a line for each step elsewhere, nothing when nobody wants it. Always on standard
//! error.

use std::io::{IsTerminal, Write, stderr};

use api::coracle::v1::{LayerProgress, LayerStage, PullProgress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::name::short_id;

/// Steps of a layer, in Docker's words, at their longest `Download complete`.
const LAYER: &str = "{prefix}: {msg:17} {bar:30.cyan/blue} {decimal_bytes:>10}/{decimal_total_bytes}";
/// The same where there is nothing to count.
const LAYER_DONE: &str = "{prefix}: {msg}";
/// Bytes of an archive whose length is known, and of one whose length is not.
const BYTES: &str = "{msg} {bar:30.cyan/blue} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}";
const BYTES_OPEN: &str = "{msg} {spinner} {decimal_bytes} {decimal_bytes_per_sec}";
/// Things in a row.
const THINGS: &str = "{msg} {bar:30.cyan/blue} {pos}/{len}";

/// The layers of an image.
#[derive(Debug)]
pub(crate) struct Layers {
    screen: Screen,
    /// Digest and step of each layer as they were shown last.
    shown: Vec<(String, LayerStage)>,
}

#[derive(Debug)]
enum Screen {
    Nothing,
    Lines,
    Bars(MultiProgress, Vec<ProgressBar>),
}

impl Layers {
    /// Nothing to show yet.
    pub(crate) fn new(quiet: bool) -> Self {
        let screen = match () {
            () if quiet => Screen::Nothing,
            () if stderr().is_terminal() => Screen::Bars(MultiProgress::new(), Vec::new()),
            () => Screen::Lines,
        };
        Self { screen, shown: Vec::new() }
    }

    /// Shows how far the layers are.
    pub(crate) fn show(&mut self, progress: &PullProgress) {
        self.show_to(progress, &mut stderr().lock());
    }

    /// Leaves what was shown where it is.
    pub(crate) fn finish(self) {
        if let Screen::Bars(_, bars) = self.screen {
            bars.iter().for_each(ProgressBar::abandon);
        }
    }

    fn show_to(&mut self, progress: &PullProgress, out: &mut impl Write) {
        if progress.layers.is_empty() {
            return;
        }
        // Another image, or the same one begun anew.
        let is_same = self.shown.iter().map(|(digest, _)| digest).eq(progress.layers.iter().map(|layer| &layer.digest));
        if !is_same {
            self.begin(progress);
        }
        for (n, layer) in progress.layers.iter().enumerate() {
            let stage = layer.stage();
            let news = std::mem::replace(&mut self.shown[n].1, stage) != stage;
            match &self.screen {
                Screen::Nothing => {}
                Screen::Lines if news => {
                    // Progress that nobody takes is no reason to stop.
                    let _ = writeln!(out, "{}: {}", short_id(&layer.digest), words(stage));
                }
                Screen::Lines => {}
                Screen::Bars(_, bars) => draw(&bars[n], layer, news),
            }
        }
    }

    fn begin(&mut self, progress: &PullProgress) {
        self.shown = progress.layers.iter().map(|layer| (layer.digest.clone(), LayerStage::Waiting)).collect();
        if let Screen::Bars(screen, bars) = &mut self.screen {
            bars.drain(..).for_each(|bar| bar.abandon());
            bars.extend(progress.layers.iter().map(|layer| {
                let bar = screen.add(ProgressBar::new(layer.total_bytes));
                bar.set_style(style(LAYER_DONE));
                bar.set_prefix(short_id(&layer.digest).to_owned());
                bar.set_message(words(LayerStage::Waiting));
                bar
            }));
        }
    }
}

fn draw(bar: &ProgressBar, layer: &LayerProgress, news: bool) {
    if news {
        let counts = matches!(layer.stage(), LayerStage::Fetching);
        bar.set_style(style(if counts { LAYER } else { LAYER_DONE }));
        bar.set_message(words(layer.stage()));
    }
    bar.set_position(layer.done_bytes);
    if matches!(layer.stage(), LayerStage::Done | LayerStage::WasHere) && !bar.is_finished() {
        bar.abandon();
    }
}

/// A bar that counts the bytes of an archive; hidden where nobody wants or sees it.
pub(crate) fn bytes(what: &'static str, total: Option<u64>, quiet: bool) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total).with_style(style(BYTES)),
        None => ProgressBar::no_length().with_style(style(BYTES_OPEN)),
    };
    if quiet || !stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.with_message(what)
}

/// A bar that counts things; hidden where nobody wants or sees it.
pub(crate) fn things(what: &'static str, quiet: bool) -> ProgressBar {
    let bar = ProgressBar::new(0).with_style(style(THINGS));
    if quiet || !stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.with_message(what)
}

fn style(template: &'static str) -> ProgressStyle {
    // Each is tried by a test.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

fn words(stage: LayerStage) -> &'static str {
    match stage {
        LayerStage::Waiting => "Waiting",
        LayerStage::Fetching => "Downloading",
        LayerStage::Fetched => "Download complete",
        LayerStage::Unpacking => "Extracting",
        LayerStage::Done => "Pull complete",
        LayerStage::WasHere => "Already exists",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(layers: &[(&str, LayerStage)]) -> PullProgress {
        let layer = |(digest, stage): &(&str, LayerStage)| LayerProgress {
            digest: format!("sha256:{}", digest.repeat(64)),
            total_bytes: 100,
            done_bytes: 50,
            stage: (*stage).into(),
        };
        PullProgress { layers: layers.iter().map(layer).collect() }
    }

    #[test]
    fn without_a_terminal_each_step_is_a_line_and_none_comes_twice() {
        let mut layers = Layers { screen: Screen::Lines, shown: Vec::new() };
        let mut out = Vec::new();
        for at in [
            [("a", LayerStage::WasHere), ("b", LayerStage::Waiting)],
            [("a", LayerStage::WasHere), ("b", LayerStage::Fetching)],
            [("a", LayerStage::WasHere), ("b", LayerStage::Fetching)],
            [("a", LayerStage::WasHere), ("b", LayerStage::Done)],
        ] {
            layers.show_to(&progress(&at), &mut out);
        }
        layers.show_to(&progress(&[("c", LayerStage::Done)]), &mut out);
        let lines = [
            "aaaaaaaaaaaa: Already exists",
            "bbbbbbbbbbbb: Downloading",
            "bbbbbbbbbbbb: Pull complete",
            "cccccccccccc: Pull complete",
        ];
        assert_eq!(String::from_utf8(out).unwrap().lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn every_template_is_one_and_bars_follow_the_layers() {
        for template in [LAYER, LAYER_DONE, BYTES, BYTES_OPEN, THINGS] {
            ProgressStyle::with_template(template).unwrap();
        }
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let mut layers = Layers { screen: Screen::Bars(screen, Vec::new()), shown: Vec::new() };
        let mut out = Vec::new();
        layers.show_to(&progress(&[("a", LayerStage::Fetching), ("b", LayerStage::Waiting)]), &mut out);
        layers.show_to(&progress(&[("a", LayerStage::Done), ("b", LayerStage::Fetching)]), &mut out);
        let Screen::Bars(_, bars) = &layers.screen else { panic!("bars") };
        assert_eq!(bars.iter().map(ProgressBar::is_finished).collect::<Vec<_>>(), [true, false]);
        assert_eq!(bars[1].position(), 50);
        layers.show_to(&progress(&[("c", LayerStage::Waiting)]), &mut out);
        let Screen::Bars(_, bars) = &layers.screen else { panic!("bars") };
        assert_eq!(bars.len(), 1);
        assert!(out.is_empty());
        layers.finish();
    }
}
