create table right_sets (
  tenant text not null,
  element text not null
);
create table right_registers (
  tenant text not null,
  register integer not null,
  value integer not null,
  primary key (tenant, register)
);
