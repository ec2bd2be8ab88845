// Activations as Eigen maps: row-major float32, one token a row.
#pragma once

#include <Eigen/Core>

#include "blockattn/core/shape.hpp"

namespace blockattn::inline v0 {

/// Owns [rows, columns] float32, row-major, aligned for every instruction set.
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
/// [rows, columns] float32, row-major, contiguous, not owned.
using matrix_map = Eigen::Map<matrix>;
using const_matrix_map = Eigen::Map<const matrix>;

}  // namespace blockattn::inline v0
