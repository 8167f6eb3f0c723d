create table left_sets (
  tenant text not null,
  element text not null
);
create table left_registers (
  tenant text not null,
  register integer not null,
  value integer not null,
  primary key (tenant, register)
);
create table left_canaries (
  tenant text primary key,
  sung integer not null
);
