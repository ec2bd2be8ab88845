#pragma once

/// The version as the other translation unit sees it; nullptr if the two see different objects.
const char* version_of_other_unit(const char* const* version_here);
