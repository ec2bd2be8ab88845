#include <blockattn/blockattn.hpp>
#include <iostream>

int main(int, char** argv) {
  blockattn::session assistant(blockattn::model::load(argv[1]));
  std::cout << assistant.ask("Answer from the text.", {"The ferry to Sandholm leaves at 9:40."}, "When does the ferry to Sandholm leave?").text << '\n';
}
