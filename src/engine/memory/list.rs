//! Doubly linked lists whose links are words of a region: the order of eviction, and the slabs of a bin or of the pool.
//!
//! A node is a number other than 0; 0 ends a list, so zeroed words are an empty one. Who owns the nodes says where a
//! node's two links lie ([`Links`]); who owns the list has a word for its head and, where the far end is wanted, one for
//! its tail.
//!
//! Costs: constant, but for [`List::iter`]. Locking: the partition's exclusive lock; the shared one to walk.
//! Not here: what the nodes are, and whether a node is in the list at all.

use super::words::Word32;

/// Where the links of a node lie.
pub trait Links {
    /// The link towards the head, and the link towards the tail.
    fn links(&self, node: u32) -> (&Word32, &Word32);
}

/// One list.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    head: &'a Word32,
    tail: Option<&'a Word32>,
}

impl<'a> List<'a> {
    /// A list with both ends.
    pub fn new(head: &'a Word32, tail: &'a Word32) -> Self {
        List { head, tail: Some(tail) }
    }

    /// A list that is only taken from at its head, or in its middle.
    pub fn headed(head: &'a Word32) -> Self {
        List { head, tail: None }
    }

    /// The first node, 0 if there is none.
    #[inline]
    pub fn first(&self) -> u32 {
        self.head.get()
    }

    /// The last node, 0 if there is none.
    ///
    /// # Panics
    ///
    /// If the list keeps no tail.
    #[inline]
    pub fn last(&self) -> u32 {
        self.tail.expect("the list keeps its tail").get()
    }

    #[inline]
    fn set_last(&self, node: u32) {
        if let Some(tail) = self.tail {
            tail.set(node);
        }
    }

    /// Puts a node, which is in no list, before the first.
    #[inline]
    pub fn push_front(&self, nodes: &impl Links, node: u32) {
        let first = self.head.get();
        let (previous, next) = nodes.links(node);
        previous.set(0);
        next.set(first);
        match first {
            0 => self.set_last(node),
            first => nodes.links(first).0.set(node),
        }
        self.head.set(node);
    }

    /// Takes a node, which is in this list, out of it. The node's own links stay as they were.
    #[inline]
    pub fn remove(&self, nodes: &impl Links, node: u32) {
        let (previous, next) = nodes.links(node);
        let (previous, next) = (previous.get(), next.get());
        match previous {
            0 => self.head.set(next),
            previous => nodes.links(previous).1.set(next),
        }
        match next {
            0 => self.set_last(previous),
            next => nodes.links(next).0.set(previous),
        }
    }

    /// Puts `new`, which is in no list, where `old` is, which leaves this list.
    pub fn replace(&self, nodes: &impl Links, old: u32, new: u32) {
        let (previous, next) = nodes.links(old);
        let (previous, next) = (previous.get(), next.get());
        let (own_previous, own_next) = nodes.links(new);
        own_previous.set(previous);
        own_next.set(next);
        match previous {
            0 => self.head.set(new),
            previous => nodes.links(previous).1.set(new),
        }
        match next {
            0 => self.set_last(new),
            next => nodes.links(next).0.set(new),
        }
    }

    /// The nodes from the first on, at most `limit`: a damaged list may have no end.
    pub fn iter<N: Links>(self, nodes: &'a N, limit: usize) -> impl Iterator<Item = u32> + 'a {
        let follow = |node: u32| (node != 0).then_some(node);
        std::iter::successors(follow(self.first()), move |&node| follow(nodes.links(node).1.get())).take(limit)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Nodes(Vec<(Word32, Word32)>);

    impl Links for Nodes {
        fn links(&self, node: u32) -> (&Word32, &Word32) {
            let (previous, next) = &self.0[node as usize];
            (previous, next)
        }
    }

    proptest! {
        #[test]
        fn a_list_is_a_sequence(steps in prop::collection::vec((0u8..4, 1u32..12), 0..200)) {
            let nodes = Nodes((0..12).map(|_| Default::default()).collect());
            let ends = [Word32::default(), Word32::default()];
            let list = List::new(&ends[0], &ends[1]);
            let mut model = VecDeque::new();
            for (step, node) in steps {
                let at = model.iter().position(|&other| other == node);
                match (step, at) {
                    (0, None) => {
                        list.push_front(&nodes, node);
                        model.push_front(node);
                    }
                    (1, Some(at)) => {
                        list.remove(&nodes, node);
                        model.remove(at);
                    }
                    (2, None) if !model.is_empty() => {
                        let at = node as usize % model.len();
                        list.replace(&nodes, model[at], node);
                        model[at] = node;
                    }
                    _ => {}
                }
                prop_assert_eq!(list.iter(&nodes, 100).collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(list.last(), model.back().copied().unwrap_or(0));
                let backwards: Vec<u32> = model.iter().rev().copied().collect();
                let links = std::iter::successors(Some(list.last()), |&node| Some(nodes.links(node).0.get()));
                prop_assert_eq!(links.take_while(|&node| node != 0).collect::<Vec<_>>(), backwards);
            }
        }
    }

    #[test]
    fn a_walk_over_a_circle_ends() {
        let nodes = Nodes((0..3).map(|_| Default::default()).collect());
        let head = Word32::default();
        let list = List::headed(&head);
        list.push_front(&nodes, 1);
        nodes.links(1).1.set(1);
        assert_eq!(list.iter(&nodes, 10).count(), 10);
    }
}
