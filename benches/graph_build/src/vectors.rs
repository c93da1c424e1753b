//! The vectors that a graph is built over: a flat file of normalised f32, mapped by every process that reads it.
//!
//! Cosine distance, which is what pgvectorscale's default operator class takes: of vectors of length one it is one
//! minus their inner product. The file is written once and not changed while it is mapped.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::Path;

/// Dimensions of every vector.
pub const DIMENSIONS: usize = 100;

/// A vector of length one.
pub type Vector = [f32; DIMENSIONS];

/// As many sums run side by side, so that the compiler adds them in vector registers; it must not reorder one sum.
const LANES: usize = 20;
const _: () = assert!(DIMENSIONS % LANES == 0);

/// A mapped file of vectors, with a count of the distances computed.
pub struct Vectors {
    map: memmap2::Mmap,
    /// Distances computed so far.
    pub distances: Cell<u64>,
}

impl Vectors {
    /// Maps a file.
    ///
    /// # Errors
    ///
    /// The file cannot be mapped, or is not made of whole vectors.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the file is written before any process is told its name, and not changed after.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        if map.len() % size_of::<Vector>() != 0 {
            let reason = format!("{} has {} bytes, not whole vectors", path.display(), map.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(Vectors { map, distances: Cell::new(0) })
    }

    /// All vectors of the file.
    pub fn all(&self) -> &[Vector] {
        bytemuck::cast_slice(&self.map)
    }

    /// One vector.
    #[inline]
    pub fn get(&self, index: u32) -> &Vector {
        &self.all()[index as usize]
    }

    /// Cosine distance, counted.
    #[inline]
    pub fn distance(&self, a: &Vector, b: &Vector) -> f32 {
        self.distances.set(self.distances.get() + 1);
        distance(a, b)
    }
}

/// Cosine distance of normalised vectors. The same whichever is named first.
#[inline]
pub fn distance(a: &Vector, b: &Vector) -> f32 {
    let mut sums = [0f32; LANES];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    (1.0 - sums.iter().sum::<f32>()).max(0.0)
}
