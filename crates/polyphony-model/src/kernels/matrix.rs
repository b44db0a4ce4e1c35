//! Matrix products of strided views of slices.

/// A view of a slice as a matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    layout: Layout,
}

/// A writable view of a slice as a matrix.
#[derive(Debug)]
pub(crate) struct MatrixMut<'a> {
    values: &'a mut [f32],
    layout: Layout,
}

#[derive(Clone, Copy, Debug)]
struct Layout {
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// Whether a product replaces the values of its target or is added to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Replace,
    Add,
}

/// Whether a product may use all cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    One,
    All,
}

impl Layout {
    fn new(rows: usize, columns: usize, row_stride: usize, length: usize) -> Self {
        let end = rows
            .checked_sub(1)
            .and_then(|last| last.checked_mul(row_stride));
        let end = end.and_then(|last| last.checked_add(columns));
        assert!(
            rows == 0 || columns == 0 || end.is_some_and(|end| end <= length),
            "the matrix must lie within its slice"
        );
        assert!(rows <= 1 || row_stride >= columns, "rows must not overlap");
        Self {
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `columns` adjacent values. The starts of two rows are `row_stride` apart.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self {
            values,
            layout: Layout::new(rows, columns, row_stride, values.len()),
        }
    }

    /// The transposed view.
    pub(crate) fn t(self) -> Self {
        let Layout {
            rows,
            columns,
            row_stride,
            column_stride,
        } = self.layout;
        let layout = Layout {
            rows: columns,
            columns: rows,
            row_stride: column_stride,
            column_stride: row_stride,
        };
        Self { layout, ..self }
    }
}

impl<'a> MatrixMut<'a> {
    /// As [`Matrix::new`].
    pub(crate) fn new(
        values: &'a mut [f32],
        rows: usize,
        columns: usize,
        row_stride: usize,
    ) -> Self {
        let layout = Layout::new(rows, columns, row_stride, values.len());
        Self { values, layout }
    }
}

/// `target ← factor · left · right`, or `target ← target + factor · left · right`, depending on `store`.
///
/// # Panics
/// If the sizes do not fit together.
pub(crate) fn multiply(
    target: MatrixMut<'_>,
    store: Store,
    factor: f32,
    left: Matrix<'_>,
    right: Matrix<'_>,
    cores: Cores,
) {
    let (t, l, r) = (target.layout, left.layout, right.layout);
    assert_eq!(
        (t.rows, t.columns, l.columns),
        (l.rows, r.columns, r.rows),
        "sizes must fit"
    );
    if t.rows == 0 || t.columns == 0 {
        return;
    }
    let parallelism = match cores {
        Cores::One => gemm::Parallelism::None,
        Cores::All => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: `Layout::new` checked that every element lies within its slice, transposing keeps the
    // set of elements, the sizes fit, and `target` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            t.rows,
            t.columns,
            l.columns,
            target.values.as_mut_ptr(),
            t.column_stride as isize,
            t.row_stride as isize,
            store == Store::Add,
            left.values.as_ptr(),
            l.column_stride as isize,
            l.row_stride as isize,
            right.values.as_ptr(),
            r.column_stride as isize,
            r.row_stride as isize,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `factor · left · right` on all cores, row by row.
///
/// # Panics
/// If the sizes do not fit together.
pub(crate) fn product(left: Matrix<'_>, right: Matrix<'_>, factor: f32) -> Vec<f32> {
    let (rows, columns) = (left.layout.rows, right.layout.columns);
    let mut output = vec![0.0; rows * columns];
    let target = MatrixMut::new(&mut output, rows, columns, columns);
    multiply(target, Store::Replace, factor, left, right, Cores::All);
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_transposes_scales_and_adds() {
        let a = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0];
        let b = [5.0, 6.0, 7.0, 8.0];
        let (left, right) = (Matrix::new(&a, 2, 2, 3), Matrix::new(&b, 2, 2, 2));
        let mut c = [0.0; 4];
        multiply(
            MatrixMut::new(&mut c, 2, 2, 2),
            Store::Replace,
            1.0,
            left,
            right,
            Cores::One,
        );
        assert_eq!(c, [19.0, 22.0, 43.0, 50.0]);
        multiply(
            MatrixMut::new(&mut c, 2, 2, 2),
            Store::Add,
            2.0,
            left.t(),
            right.t(),
            Cores::One,
        );
        assert_eq!(c, [19.0 + 46.0, 22.0 + 62.0, 43.0 + 68.0, 50.0 + 92.0]);
    }

    #[test]
    #[should_panic(expected = "within its slice")]
    fn a_view_past_the_end_is_refused() {
        let _ = Matrix::new(&[0.0; 5], 2, 2, 4);
    }
}
