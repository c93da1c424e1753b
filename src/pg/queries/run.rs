//! A planned query, run in the snapshot of the calling statement. Its rows go into a tuple store, which spills to disk;
//! and, up to a number of bytes, into what will be kept.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};

use pgrx::{PgTupleDesc, pg_guard, pg_sys};

use super::plan::Planned;
use super::rows::{Collected, Column};
use crate::pg::versions;

/// Where rows go. PostgreSQL knows its first member.
#[repr(C)]
struct Receiver {
    receiver: pg_sys::DestReceiver,
    store: *mut pg_sys::Tuplestorestate,
    /// Of one row.
    memory: pg_sys::MemoryContext,
    /// There, once the columns are known.
    whole: Option<Whole>,
    collected: Option<Collected>,
}

/// Makes rows whole: what lies in TOAST tables is fetched, expanded objects become flat.
pub(super) struct Whole {
    description: pg_sys::TupleDesc,
    /// Which columns may lie in a TOAST table.
    is_varlena: Vec<bool>,
    values: Vec<pg_sys::Datum>,
}

impl Whole {
    /// For rows with these columns.
    ///
    /// # Safety
    ///
    /// - They are those of the description, which outlives this.
    pub(super) unsafe fn new(description: pg_sys::TupleDesc, columns: &[Column]) -> Whole {
        // SAFETY: lookups in the catalogs.
        let is_varlena = columns.iter().map(|column| unsafe { pg_sys::get_typlen(column.oid) } == -1).collect();
        Whole { description, is_varlena, values: Vec::new() }
    }

    /// A row of the slot's values, in the current memory context.
    ///
    /// # Safety
    ///
    /// - The slot has a row of these columns.
    pub(super) unsafe fn row(&mut self, slot: *mut pg_sys::TupleTableSlot) -> pg_sys::MinimalTuple {
        // SAFETY: as the caller says.
        unsafe {
            let nulls = (*slot).tts_isnull;
            self.values.clear();
            for (index, is_varlena) in self.is_varlena.iter().enumerate() {
                let mut value = (*slot).tts_values.add(index).read();
                if *is_varlena && !nulls.add(index).read() && pgrx::varatt_is_1b_e(value.cast_mut_ptr()) {
                    value = pg_sys::Datum::from(pg_sys::pg_detoast_datum(value.cast_mut_ptr()));
                }
                self.values.push(value);
            }
            versions::form_minimal_tuple(self.description, self.values.as_mut_ptr(), nulls)
        }
    }
}

/// What a run gave.
pub(in crate::pg) struct Output {
    pub(in crate::pg) columns: Vec<Column>,
    pub(in crate::pg) collected: Option<Collected>,
}

/// The columns of a result.
///
/// # Safety
///
/// - It is a description, which outlives the call.
pub(in crate::pg) unsafe fn columns_of(description: pg_sys::TupleDesc) -> Vec<Column> {
    // SAFETY: as the caller says; nothing is given back that is not counted.
    let columns = unsafe { PgTupleDesc::from_pg_unchecked(description) };
    let column = |column: &pg_sys::FormData_pg_attribute| Column {
        oid: column.atttypid,
        modifier: column.atttypmod,
        collation: column.attcollation,
    };
    columns.iter().map(column).collect()
}

/// A place for rows, which lives as long as this memory.
pub(in crate::pg) fn new_store(home: pg_sys::MemoryContext) -> *mut pg_sys::Tuplestorestate {
    // SAFETY: a memory context; the store is freed with it.
    unsafe {
        let before = pg_sys::MemoryContextSwitchTo(home);
        let store = pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem);
        pg_sys::MemoryContextSwitchTo(before);
        store
    }
}

/// Runs a query. `collect` says what its rows are collected in, given the columns.
pub(in crate::pg) fn run(
    planned: &Planned,
    query: &CStr,
    store: *mut pg_sys::Tuplestorestate,
    collect: impl FnOnce(&[Column]) -> Option<Collected>,
) -> Output {
    let mut receiver = Receiver {
        receiver: pg_sys::DestReceiver {
            receiveSlot: Some(receive),
            rStartup: Some(start),
            rShutdown: Some(nothing),
            rDestroy: Some(nothing),
            mydest: pg_sys::CommandDest::DestNone,
        },
        store,
        // SAFETY: below the current one, which it goes with after an ERROR.
        memory: unsafe {
            pg_sys::AllocSetContextCreateExtended(
                pg_sys::CurrentMemoryContext,
                c"Shared LRU row".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        },
        whole: None,
        collected: None,
    };
    // SAFETY: inside of a transaction with an active snapshot; the receiver outlives the run.
    unsafe {
        let description = pg_sys::CreateQueryDesc(
            planned.statement,
            query.as_ptr(),
            pg_sys::GetActiveSnapshot(),
            std::ptr::null_mut(),
            (&raw mut receiver).cast(),
            planned.parameters,
            std::ptr::null_mut(),
            0,
        );
        pg_sys::ExecutorStart(description, 0);
        let columns = columns_of((*description).tupDesc);
        receiver.whole = Some(Whole::new((*description).tupDesc, &columns));
        receiver.collected = collect(&columns);
        versions::run_executor(description);
        pg_sys::ExecutorFinish(description);
        pg_sys::ExecutorEnd(description);
        pg_sys::FreeQueryDesc(description);
        pg_sys::MemoryContextDelete(receiver.memory);
        Output { columns, collected: receiver.collected.take() }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn start(
    _receiver: *mut pg_sys::DestReceiver,
    _operation: c_int,
    _columns: pg_sys::TupleDesc,
) {
}

#[pg_guard]
unsafe extern "C-unwind" fn nothing(_receiver: *mut pg_sys::DestReceiver) {}

#[pg_guard]
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, receiver: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: the receiver is the one that `run` has given; the slot has a row of the described columns.
    unsafe {
        let receiver = &mut *receiver.cast::<Receiver>();
        let Receiver { store, memory, whole, collected, .. } = receiver;
        let whole = whole.as_mut().expect("there since the start");
        let count = whole.is_varlena.len();
        if c_int::from((*slot).tts_nvalid) < count as c_int {
            pg_sys::slot_getsomeattrs_int(slot, count as c_int);
        }
        let before = pg_sys::MemoryContextSwitchTo(*memory);
        let row = whole.row(slot);
        if let Some(collected) = collected {
            collected.push(row_bytes(row));
        }
        pg_sys::tuplestore_putvalues(*store, whole.description, whole.values.as_mut_ptr(), (*slot).tts_isnull);
        pg_sys::MemoryContextSwitchTo(before);
        pg_sys::MemoryContextReset(*memory);
        true
    }
}

/// The bytes of a row.
///
/// # Safety
///
/// - It is one, which outlives the bytes.
pub(super) unsafe fn row_bytes<'a>(row: pg_sys::MinimalTuple) -> &'a [u8] {
    // SAFETY: as the caller says; its length is its first word.
    unsafe { std::slice::from_raw_parts(row.cast::<u8>(), (*row).t_len as usize) }
}
