//! What docs/sql.md tells a reader to type does what it says.

use crate::world::World;

#[test]
fn placeholder() {
    let _ = World::new();
}
