//! The fields of a Parquet file's metadata and of the headers of its pages, as the Parquet format defines them
//! (`parquet.thrift` of github.com/apache/parquet-format).

use super::thrift::{
    Field,
    Kind::{self, Boolean, Byte, Double, List, Number, Structure, Text},
};

/// `FileMetaData`.
pub(super) const METADATA: &[Field] = &[
    (1, Number),
    (2, List(&Structure(SCHEMA_ELEMENT))),
    (3, Number),
    (4, List(&Structure(ROW_GROUP))),
    (5, KEY_VALUES),
    (6, Text),
    (7, List(&Structure(&[(1, EMPTY)]))),
    (8, Structure(ENCRYPTION)),
    (9, Text),
];

/// `PageHeader`.
pub(super) const PAGE_HEADER: &[Field] = &[
    (1, Number),
    (2, Number),
    (3, Number),
    (4, Number),
    (
        5,
        Structure(&[
            (1, Number),
            (2, Number),
            (3, Number),
            (4, Number),
            (5, Structure(STATISTICS)),
        ]),
    ),
    (6, EMPTY),
    (7, Structure(&[(1, Number), (2, Number), (3, Boolean)])),
    (
        8,
        Structure(&[
            (1, Number),
            (2, Number),
            (3, Number),
            (4, Number),
            (5, Number),
            (6, Number),
            (7, Boolean),
            (8, Structure(STATISTICS)),
        ]),
    ),
];

const EMPTY: Kind = Structure(&[]);

const KEY_VALUES: Kind = List(&Structure(&[(1, Text), (2, Text)]));

const SCHEMA_ELEMENT: &[Field] = &[
    (1, Number),
    (2, Number),
    (3, Number),
    (4, Text),
    (5, Number),
    (6, Number),
    (7, Number),
    (8, Number),
    (9, Number),
    (10, Structure(LOGICAL_TYPE)),
];

const LOGICAL_TYPE: &[Field] = &[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    (5, Structure(&[(1, Number), (2, Number)])),
    (6, EMPTY),
    (7, TIME),
    (8, TIME),
    (10, Structure(&[(1, Byte), (2, Boolean)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
    (16, Structure(&[(1, Byte)])),
    (17, Structure(&[(1, Text)])),
    (18, Structure(&[(1, Text), (2, Number)])),
];

const TIME: Kind = Structure(&[
    (1, Boolean),
    (2, Structure(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)])),
]);

const ROW_GROUP: &[Field] = &[
    (1, List(&Structure(COLUMN_CHUNK))),
    (2, Number),
    (3, Number),
    (
        4,
        List(&Structure(&[(1, Number), (2, Boolean), (3, Boolean)])),
    ),
    (5, Number),
    (6, Number),
    (7, Number),
];

const COLUMN_CHUNK: &[Field] = &[
    (1, Text),
    (2, Number),
    (3, Structure(COLUMN)),
    (4, Number),
    (5, Number),
    (6, Number),
    (7, Number),
    (
        8,
        Structure(&[(1, EMPTY), (2, Structure(&[(1, List(&Text)), (2, Text)]))]),
    ),
    (9, Text),
];

const COLUMN: &[Field] = &[
    (1, Number),
    (2, List(&Number)),
    (3, List(&Text)),
    (4, Number),
    (5, Number),
    (6, Number),
    (7, Number),
    (8, KEY_VALUES),
    (9, Number),
    (10, Number),
    (11, Number),
    (12, Structure(STATISTICS)),
    (
        13,
        List(&Structure(&[(1, Number), (2, Number), (3, Number)])),
    ),
    (14, Number),
    (15, Number),
    (
        16,
        Structure(&[(1, Number), (2, List(&Number)), (3, List(&Number))]),
    ),
    (
        17,
        Structure(&[(1, Structure(BOUNDING_BOX)), (2, List(&Number))]),
    ),
];

const BOUNDING_BOX: &[Field] = &[
    (1, Double),
    (2, Double),
    (3, Double),
    (4, Double),
    (5, Double),
    (6, Double),
    (7, Double),
    (8, Double),
];

const STATISTICS: &[Field] = &[
    (1, Text),
    (2, Text),
    (3, Number),
    (4, Number),
    (5, Text),
    (6, Text),
    (7, Boolean),
    (8, Boolean),
    (9, Number),
];

const ENCRYPTION: &[Field] = &[(1, Structure(CIPHER)), (2, Structure(CIPHER))];

const CIPHER: &[Field] = &[(1, Text), (2, Text), (3, Boolean)];
