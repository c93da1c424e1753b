//! What pgvectorscale has in `access_method::labels`.

/// Sorted. Neither `Deref` nor `Index`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelSet {
    labels: Vec<i16>,
}

impl From<Vec<i16>> for LabelSet {
    fn from(mut labels: Vec<i16>) -> Self {
        labels.sort_unstable();
        labels.dedup();
        LabelSet { labels }
    }
}

pub trait LabelSetView {
    fn labels(&self) -> &[i16];
}

impl LabelSetView for LabelSet {
    fn labels(&self) -> &[i16] {
        &self.labels
    }
}
