//! Any statement.

use crate::pen::{Constants, Sql};
use crate::random::Random;
use crate::schema::Schema;
use crate::{reads, writes};

pub fn statement(random: &mut Random, schema: &Schema, constants: Constants) -> Sql {
    if random.chance(55) {
        writes::write(random, schema, constants)
    } else {
        reads::read(random, schema, constants)
    }
}
