//! The steps by which images come and go, by name.

fault::steps! {
    /// A step of an act on images.
    pub enum Step {
        /// Give a blob that has come, and is what its digest says, its name.
        Blob = "image.blob",
        /// Give a layer that was unpacked, and is what the configuration says, its name.
        Layer = "image.layer",
        /// Put all of an image on the medium.
        Sync = "image.sync",
        /// Write down the image and its names.
        Record = "image.record",
        /// Write down that the image which had a name before has it no longer.
        Robbed = "image.robbed",
        /// Write down that an image has a name less.
        Untagged = "image.untagged",
        /// Write down that an image is removed.
        Unlisted = "image.unlisted",
        /// Move away a layer or blob that nobody needs any more.
        Discarded = "image.discarded",
        /// Delete the record of a removed image whose content is gone.
        Cleared = "image.cleared",
    }
}
