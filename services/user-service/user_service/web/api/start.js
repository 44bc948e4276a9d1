// Starts Swagger UI. A file of its own, since the page's policy allows no script in it.
"use strict";

const place = document.getElementById("swagger-ui");

window.ui = SwaggerUIBundle({
  domNode: place,
  url: place.dataset.document,
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // Or documents that are not on localhost would be sent to a validator elsewhere.
  validatorUrl: null,
});
